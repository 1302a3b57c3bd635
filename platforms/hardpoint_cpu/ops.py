"""Ops in fewer passes over memory and fewer calls than their references."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F

from hardpoint.ops.rotary import qk_norm_rope as reference


class CpuOps:
    """The provider."""

    name: ClassVar[str] = "cpu"

    @property
    def ops(self) -> Mapping[str, Callable[..., Any]]:
        """Op's name -> its body here."""
        return {"qk_norm_rope": qk_norm_rope}

    def reject(self, op: str, arch: str, dtype: str) -> list[str]:
        """Return nothing: the bodies are PyTorch's own operations."""
        return []


def qk_norm_rope(
    qkv: torch.Tensor,
    num_heads: int,
    num_kv_heads: int,
    head_size: int,
    q_weight: torch.Tensor | None,
    k_weight: torch.Tensor | None,
    eps: float,
    offset: float,
    positions: torch.Tensor,
    cos_sin: torch.Tensor | None,
    interleaved: bool = False,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Norm and rotate the heads of queries and keys together; see :func:`hardpoint.ops.rotary.qk_norm_rope`."""
    plain = q_weight is None and k_weight is None
    if cos_sin is None or not (plain or _rounds_first(qkv, q_weight, k_weight, offset)):
        return reference(
            qkv, num_heads, num_kv_heads, head_size, q_weight, k_weight, eps, offset, positions, cos_sin, interleaved
        )
    heads = qkv.view(len(qkv), num_heads + 2 * num_kv_heads, head_size)
    qk, v = heads[:, :-num_kv_heads], heads[:, -num_kv_heads:]
    if q_weight is not None and k_weight is not None:
        qk = F.rms_norm(qk, (head_size,), None, eps)
        qk[:, :num_heads].mul_(q_weight)
        qk[:, num_heads:].mul_(k_weight)
    turned = _rotate(qk, cos_sin.index_select(0, positions).to(qkv.dtype).unsqueeze(1), interleaved)
    return turned[:, :num_heads], turned[:, num_heads:], v


def _rounds_first(
    qkv: torch.Tensor, q_weight: torch.Tensor | None, k_weight: torch.Tensor | None, offset: float
) -> bool:
    """Return whether both norms exist and round their normed values before the weight, as Llama's does."""
    return not offset and all(w is not None and w.dtype == qkv.dtype for w in (q_weight, k_weight))


def _rotate(x: torch.Tensor, cos_sin: torch.Tensor, interleaved: bool) -> torch.Tensor:
    """Return ``x`` [T, heads, head_size] rotated by ``cos_sin`` [T, 1, rotated]."""
    rotated = cos_sin.shape[-1]
    cos, sin = cos_sin.chunk(2, -1)
    out = torch.empty(x.shape, dtype=x.dtype)
    if interleaved:
        first, second = slice(0, rotated, 2), slice(1, rotated, 2)
    else:
        first, second = slice(rotated // 2), slice(rotated // 2, rotated)
    torch.mul(x[..., first], cos, out=out[..., first]).addcmul_(x[..., second], sin, value=-1)
    torch.mul(x[..., second], cos, out=out[..., second]).addcmul_(x[..., first], sin)
    out[..., rotated:] = x[..., rotated:]
    return out
