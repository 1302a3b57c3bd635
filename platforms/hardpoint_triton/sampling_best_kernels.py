"""The most likely token: one pass over the vocabulary by as many programs as it takes, then one short program a row.

Logits are compared as integers whose order is theirs, with NaN above everything, so that the answer is a function of the
logits alone: the first NaN, or else the lowest id among the largest.
"""

from __future__ import annotations

from typing import Final

import torch
import triton
import triton.language as tl

from hardpoint_triton.dependent import keywords, release, wait

#: Tokens under one maximum, and maxima made by one program.
WIDTH: Final = 64
BLOCKS: Final = 32
_NAN: Final = tl.constexpr(0x7FFFFFFF)
_NOTHING: Final = tl.constexpr(-0x80000000)


@triton.jit
def ordered(values):
    """Return int32 keys in the order of float32 ``values``; both zeros are one, NaN is the largest."""
    bits = tl.where(values == 0.0, 0.0, values).to(tl.int32, bitcast=True)
    keys = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return tl.where(values != values, _NAN, keys)


@triton.jit
def _maxima(
    logits, maxima, vocab, blocks, logits_stride,
    WIDTH: tl.constexpr, BLOCKS: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    release(PDL)
    wait(PDL)
    row = tl.program_id(1).to(tl.int64)
    block = tl.program_id(0) * BLOCKS + tl.arange(0, BLOCKS)
    at = block[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]
    values = tl.load(logits + row * logits_stride + at, mask=at < vocab, other=float("-inf")).to(tl.float32)
    keys = tl.where(at < vocab, ordered(values), _NOTHING)
    tl.store(maxima + row * blocks + block, tl.max(keys, 1), mask=block < blocks)


@triton.jit
def _best(
    logits, maxima, tokens, best, vocab, blocks, logits_stride,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    release(PDL)
    wait(PDL)
    row = tl.program_id(0).to(tl.int64)
    block = tl.arange(0, PADDED)
    keys = tl.load(maxima + row * blocks + block, mask=block < blocks, other=_NOTHING)
    first = tl.argmax(keys, 0, tie_break_left=True) * WIDTH
    at = first + tl.arange(0, WIDTH)
    values = tl.load(logits + row * logits_stride + at, mask=at < vocab, other=float("-inf")).to(tl.float32)
    inside = tl.where(at < vocab, ordered(values), _NOTHING)
    token = first + tl.argmax(inside, 0, tie_break_left=True)
    tl.store(tokens + row, token.to(tl.int64))
    tl.store(best + row, tl.load(logits + row * logits_stride + token).to(tl.float32))


def block_maxima(logits: torch.Tensor) -> torch.Tensor:
    """Return the largest key of each ``WIDTH`` tokens, int32 [n, blocks], for ``logits`` [n, vocab] with whole rows."""
    rows, vocab = logits.shape
    blocks = triton.cdiv(vocab, WIDTH)
    maxima = torch.empty((rows, blocks), dtype=torch.int32, device=logits.device)
    if rows:
        _maxima[(triton.cdiv(blocks, BLOCKS), rows)](
            logits, maxima, vocab, blocks, logits.stride(0),
            WIDTH=WIDTH, BLOCKS=BLOCKS, num_warps=4, **keywords(logits.device),
        )  # fmt: skip
    return maxima


def best_token(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """See ``hardpoint.ops.ranking.best_token``; takes bfloat16 and float16 too."""
    logits = logits if logits.stride(1) == 1 else logits.contiguous()
    rows, vocab = logits.shape
    maxima = block_maxima(logits)
    tokens = torch.empty(rows, dtype=torch.int64, device=logits.device)
    best = torch.empty(rows, dtype=torch.float32, device=logits.device)
    if rows:
        blocks = maxima.shape[1]
        _best[(rows,)](
            logits, maxima, tokens, best, vocab, blocks, logits.stride(0),
            WIDTH=WIDTH, PADDED=triton.next_power_of_2(blocks), num_warps=8 if blocks > 1024 else 4,
            **keywords(logits.device),
        )  # fmt: skip
    return tokens, best
