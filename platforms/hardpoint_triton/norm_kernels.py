"""Root mean square norm, with and without the residual addition before it: one program a row, one pass over memory."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

MAX_SIZE = 16384


@triton.jit
def _norm(x, residual, weight, out, total, x_stride, eps, offset,
          SIZE: tl.constexpr, PADDED: tl.constexpr, ADD: tl.constexpr, WIDE: tl.constexpr):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, PADDED)
    there = at < SIZE
    values = tl.load(x + row * x_stride + at, mask=there, other=0.0)
    if ADD:
        before = tl.load(residual + row * SIZE + at, mask=there, other=0.0)
        values = (before.to(tl.float32) + values.to(tl.float32)).to(values.dtype)
        tl.store(total + row * SIZE + at, values, mask=there)
    wide = values.to(tl.float32)
    normed = wide * tl.rsqrt(tl.sum(wide * wide, 0) / SIZE + eps)
    scale = tl.load(weight + at, mask=there, other=0.0)
    if WIDE:
        result = normed * (scale.to(tl.float32) + offset)
    else:
        result = (normed.to(values.dtype).to(tl.float32) * scale.to(tl.float32)).to(values.dtype)
    tl.store(out + row * SIZE + at, result.to(out.dtype.element_ty), mask=there)


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float, offset: float = 0.0) -> torch.Tensor:
    """See ``hardpoint.ops.norm.rms_norm``."""
    size = x.shape[-1]
    rows = x.reshape(-1, size) if x.dim() != 2 or x.stride(1) != 1 else x
    if rows.stride(1) != 1:
        rows = rows.contiguous()
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    _launch(rows, rows, weight, out, out, eps, offset, add=False)
    return out


def add_rms_norm(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float, offset: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """See ``hardpoint.ops.norm.add_rms_norm``."""
    out, total = torch.empty_like(residual), torch.empty_like(residual)
    _launch(x.contiguous(), residual.contiguous(), weight, out, total, eps, offset, add=True)
    return out, total


def _launch(
    x: torch.Tensor,
    residual: torch.Tensor,
    weight: torch.Tensor,
    out: torch.Tensor,
    total: torch.Tensor,
    eps: float,
    offset: float,
    *,
    add: bool,
) -> None:
    size = x.shape[-1]
    if x.shape[0] == 0:
        return
    padded = triton.next_power_of_2(size)
    _norm[(x.shape[0],)](
        x, residual, weight, out, total, x.stride(0), eps, offset,
        SIZE=size, PADDED=padded, ADD=add, WIDE=bool(offset) or weight.dtype != x.dtype,
        num_warps=min(16, max(1, padded // 512)),
    )  # fmt: skip
