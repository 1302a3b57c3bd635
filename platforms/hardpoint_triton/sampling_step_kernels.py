"""The two ends of a decode step, one launch each; see ``hardpoint.ops.decode``."""

from __future__ import annotations

from typing import Final

import torch
import triton
import triton.language as tl

from hardpoint_triton.dependent import keywords, release, wait

COLUMNS: Final = 1024
ROWS: Final = 128


@triton.jit
def _inputs(
    blocks, rows, computed, newest, table, token_ids, positions, seq_lens, slots, width, table_stride, blocks_stride,
    BLOCK_SIZE: tl.constexpr, COLUMNS: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    release(PDL)
    wait(PDL)
    at, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    row = tl.load(rows + at).to(tl.int64)
    position = tl.load(computed + at)
    last = position // BLOCK_SIZE
    column = part * COLUMNS + tl.arange(0, COLUMNS)
    there = (column <= last) & (column < width)
    tl.store(
        blocks + at * blocks_stride + column,
        tl.load(table + row * table_stride + column, mask=there, other=0),
        mask=there,
    )
    if part == 0:
        tl.store(token_ids + at, tl.load(newest + row * 2 + (position & 1)))
        tl.store(positions + at, position.to(tl.int64))
        tl.store(seq_lens + at, position + 1)
        block = tl.load(table + row * table_stride + last).to(tl.int64)
        tl.store(slots + at, block * BLOCK_SIZE + position % BLOCK_SIZE)


def decode_inputs(
    blocks: torch.Tensor,
    rows: torch.Tensor,
    computed: torch.Tensor,
    newest: torch.Tensor,
    table: torch.Tensor,
    block_size: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """See ``hardpoint.ops.decode.decode_inputs``."""
    count, width = blocks.shape
    token_ids, positions, slots = torch.empty((3, count), dtype=torch.int64, device=table.device).unbind(0)
    seq_lens = torch.empty(count, dtype=torch.int32, device=table.device)
    if count:
        columns = min(COLUMNS, triton.next_power_of_2(width))
        _inputs[(count, triton.cdiv(width, columns))](
            blocks, rows, computed, newest, table, token_ids, positions, seq_lens, slots,
            width, table.stride(0), blocks.stride(0),
            BLOCK_SIZE=block_size, COLUMNS=columns, num_warps=4, **keywords(table.device),
        )  # fmt: skip
    return token_ids, positions, seq_lens, slots, blocks


@triton.jit
def _keep(
    newest, results, turn, rows, positions, tokens, best, count, results_stride, ROWS: tl.constexpr, PDL: tl.constexpr
):
    release(PDL)
    wait(PDL)
    at = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    there = at < count
    row = tl.load(rows + at, mask=there, other=0).to(tl.int64)
    place = tl.load(positions + at, mask=there, other=0) & 1
    token = tl.load(tokens + at, mask=there, other=0)
    tl.store(newest + row * 2 + place, token, mask=there)
    # Of numbers, only finite ones are below infinity in size; of NaN nothing is true.
    finite = tl.abs(tl.load(best + at, mask=there, other=0.0)) < float("inf")
    told = tl.where(finite, token.to(tl.int32), -1)
    tl.store(results + tl.load(turn).to(tl.int64) * results_stride + at, told, mask=there)


def keep_tokens(
    newest: torch.Tensor,
    results: torch.Tensor,
    turn: torch.Tensor,
    rows: torch.Tensor,
    positions: torch.Tensor,
    tokens: torch.Tensor,
    best: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """See ``hardpoint.ops.decode.keep_tokens``."""
    count = len(tokens)
    if count:
        _keep[(triton.cdiv(count, ROWS),)](
            newest, results, turn, rows, positions, tokens, best, count, results.stride(0),
            ROWS=ROWS, num_warps=4, **keywords(newest.device),
        )  # fmt: skip
    return newest, results
