"""Normalisation. Sums run in float32; where the result is rounded follows ``transformers``, family by family."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F

from hardpoint.ops.registry import OpCall, op
from hardpoint.ops.values import Values


def _rms_inputs(dtype: torch.dtype, device: torch.device, seed: int) -> Iterator[OpCall]:
    values = Values(dtype, device, seed)
    for tokens, size in ((1, 64), (3, 896), (17, 1024), (0, 64)):
        x, weight = values.normal(tokens, size), values.normal(size, mean=1.0, std=0.1)
        yield OpCall(f"{tokens}x{size}", (x, weight, 1e-6))
        yield OpCall(f"{tokens}x{size}-offset", (x, weight - 1, 1e-6, 1.0))
    wide = values.normal(5, 6, 128)
    yield OpCall("heads-strided", (wide[:, 1:4], values.normal(128, mean=1.0, std=0.1), 1e-5))
    yield OpCall("float32-weight", (values.normal(4, 256), values.uniform(256, low=0.5, high=1.5), 1e-5))
    yield OpCall("large", (values.normal(2, 256, std=100.0), values.normal(256), 1e-5))


@op(_rms_inputs)
def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float, offset: float = 0.0) -> torch.Tensor:
    """Root mean square norm over the last axis (Zhang and Sennrich, 2019).

    With ``offset`` 0 and a weight of ``x``'s type the normed value is rounded to that type before it meets the weight,
    as Llama does. With an ``offset`` (Gemma) or a float32 weight (gpt-oss, OLMo 2: give them a float32 weight) the product
    is float32 and rounded once.

    Args:
        x: [..., size].
        weight: [size].
        eps: added to the mean square.
        offset: added to ``weight`` in float32; 1.0 for Gemma.

    Returns:
        [..., size] in ``x``'s dtype, contiguous.
    """
    wide = x.float()
    normed = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    if offset:
        return (normed * (offset + weight.float())).to(x.dtype)
    if weight.dtype == x.dtype:
        return weight * normed.to(x.dtype)
    return (weight * normed).to(x.dtype)


def _layer_norm_inputs(dtype: torch.dtype, device: torch.device, seed: int) -> Iterator[OpCall]:
    values = Values(dtype, device, seed)
    for tokens, size in ((1, 64), (7, 512), (0, 64)):
        x, weight, bias = values.normal(tokens, size, mean=0.5), values.normal(size, mean=1.0), values.normal(size)
        yield OpCall(f"{tokens}x{size}", (x, weight, bias, 1e-5))
        yield OpCall(f"{tokens}x{size}-plain", (x, None, None, 1e-5))


@op(_layer_norm_inputs)
def layer_norm(x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None, eps: float) -> torch.Tensor:
    """Layer norm over the last axis (Ba et al., 2016). ``x``: [..., size]; ``weight`` and ``bias``: [size] or absent."""
    return F.layer_norm(x, x.shape[-1:], weight, bias, eps)
