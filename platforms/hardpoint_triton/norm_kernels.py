"""Root mean square norm: one program a row, one pass over memory."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from hardpoint_triton import dependent
from hardpoint_triton.dependent import release, wait


@triton.jit
def _norm(x, weight, out, x_stride, eps, offset, SIZE: tl.constexpr, PADDED: tl.constexpr, WIDE: tl.constexpr,
          PDL: tl.constexpr):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, PADDED)
    there = at < SIZE
    scale = tl.load(weight + at, mask=there, other=0.0)
    release(PDL)
    wait(PDL)
    values = tl.load(x + row * x_stride + at, mask=there, other=0.0)
    wide = values.to(tl.float32)
    normed = wide * tl.rsqrt(tl.sum(wide * wide, 0) / SIZE + eps)
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
    if len(rows):
        padded = triton.next_power_of_2(size)
        _norm[(len(rows),)](
            rows, weight, out, rows.stride(0), eps, offset,
            SIZE=size, PADDED=padded, WIDE=bool(offset) or weight.dtype != x.dtype,
            num_warps=min(16, max(1, padded // 512)), **dependent.keywords(x.device),
        )  # fmt: skip
    return out
