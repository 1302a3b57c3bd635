"""Token embedding as a link of a chain of dependent launches; see ``hardpoint.ops.embed``."""

from __future__ import annotations

from typing import Final

import torch
import triton
import triton.language as tl

from hardpoint_triton.dependent import keywords, release, wait

BLOCK: Final = 2048


@triton.jit
def _look_up(
    ids, table, out, first, rows, size, table_stride,
    PART: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    release(PDL)
    wait(PDL)
    token = tl.program_id(0).to(tl.int64)
    row = tl.load(ids + token).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    there = at < size
    if PART:
        row -= first
        there = there & (at * 0 + row >= 0) & (at * 0 + row < rows)
    values = tl.load(table + row * table_stride + at, mask=there, other=0.0)
    tl.store(out + token * size + at, values, mask=at < size)


def embed(ids: torch.Tensor, table: torch.Tensor, first: int | None = None) -> torch.Tensor:
    """See ``hardpoint.ops.embed.embed``."""
    rows, size = table.shape
    out = torch.empty((len(ids), size), dtype=table.dtype, device=table.device)
    if len(ids):
        block = min(BLOCK, triton.next_power_of_2(size))
        _look_up[(len(ids), triton.cdiv(size, block))](
            ids, table, out, first or 0, rows, size, table.stride(0),
            PART=first is not None, BLOCK=block, num_warps=max(1, min(8, block // 256)), **keywords(table.device),
        )  # fmt: skip
    return out
