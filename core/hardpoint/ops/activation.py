"""Gated activations on fused gate and up projections, and the soft cap on logits."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F

from hardpoint.ops.registry import OpCall, op
from hardpoint.ops.values import Values


def _gated_inputs(dtype: torch.dtype, device: torch.device, seed: int) -> Iterator[OpCall]:
    values = Values(dtype, device, seed)
    for tokens, size in ((1, 32), (5, 1408), (0, 32)):
        yield OpCall(f"{tokens}x{size}", (values.normal(tokens, 2 * size, std=2.0),))
    yield OpCall("strided", (values.normal(4, 100)[:, 4:68],))


@op(_gated_inputs)
def silu_mul(gate_up: torch.Tensor) -> torch.Tensor:
    """``silu(gate) * up`` (SwiGLU; Shazeer, 2020). ``gate_up``: [..., 2 * size], gate first; returns [..., size]."""
    gate, up = gate_up.chunk(2, -1)
    return F.silu(gate).mul_(up)


def _gelu_inputs(dtype: torch.dtype, device: torch.device, seed: int) -> Iterator[OpCall]:
    for call in _gated_inputs(dtype, device, seed):
        yield call
        yield OpCall(f"{call.label}-none", call.args, {"approximate": "none"})


@op(_gelu_inputs)
def gelu_mul(gate_up: torch.Tensor, approximate: str = "tanh") -> torch.Tensor:
    """``gelu(gate) * up`` (GeGLU). ``gate_up``: [..., 2 * size], gate first; ``approximate`` is ``tanh`` or ``none``."""
    gate, up = gate_up.chunk(2, -1)
    return F.gelu(gate, approximate=approximate).mul_(up)


def _oai_inputs(dtype: torch.dtype, device: torch.device, seed: int) -> Iterator[OpCall]:
    for call in _gated_inputs(dtype, device, seed):
        yield OpCall(call.label, (call.args[0] * 4, 1.702, 7.0))


@op(_oai_inputs)
def swiglu_oai(gate_up: torch.Tensor, alpha: float, limit: float) -> torch.Tensor:
    """``(up + 1) * gate * sigmoid(alpha * gate)`` on clamped inputs (gpt-oss).

    Args:
        gate_up: [..., 2 * size], gate and up alternating, gate first, as the checkpoints store them.
        alpha: 1.702 in gpt-oss.
        limit: the gate is clamped from above, up from both sides; 7.0 in gpt-oss.

    Returns:
        [..., size].
    """
    gate, up = gate_up[..., ::2].clamp(max=limit), gate_up[..., 1::2].clamp(-limit, limit)
    return (up + 1) * (gate * torch.sigmoid(gate * alpha))


def _soft_cap_inputs(dtype: torch.dtype, device: torch.device, seed: int) -> Iterator[OpCall]:
    values = Values(dtype, device, seed)
    yield OpCall("logits", (values.normal(3, 1000, std=40.0), 30.0))
    yield OpCall("none", (values.normal(0, 8), 50.0))


@op(_soft_cap_inputs)
def soft_cap(x: torch.Tensor, cap: float) -> torch.Tensor:
    """``cap * tanh(x / cap)`` (Gemma 2). Any shape."""
    return torch.tanh(x / cap) * cap
