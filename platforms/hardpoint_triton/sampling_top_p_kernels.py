"""Top-p's bound: the largest weight ``t`` for which the tokens of at least this weight hold the mass that is asked for.

A float's bits order positive floats, so ``t`` is searched among bits. The first tokens of the vocabulary alone give a guess;
one pass sums all weights and those above three values around it, which leaves ``t`` between two of them or outside of all:
in a flat distribution the guess is close, and in a steep one few tokens are above it. A second pass collects the tokens
between, and one program a row searches these. Where they are too many, that program goes over the vocabulary again, narrowing
the range to a quarter each time, until they are few enough or one value is left.
"""

from __future__ import annotations

from typing import Final

import torch
import triton
import triton.language as tl

from hardpoint_triton.dependent import keywords, release, wait
from hardpoint_triton.sampling_weight_kernels import mass_of, row_weights, whole_of

#: Tokens per program of a pass.
PART: Final = 2048
#: Tokens that the search holds at once, and collects at most.
TILE: Final = 8192
#: Distance of the first values at which weights are summed: an eighth of an octave.
STEP: Final = 2**20
# Bits below the smallest weight that has mass, 2**-40, and above the largest, 1.
_LOWEST: Final = tl.constexpr(0x2B7FFFFF)
_HIGHEST: Final = tl.constexpr(0x3F800001)
# A sum of weights and their number in one integer: at most 64 weights of 2**40 are added before the two are taken apart.
_COUNT: Final = tl.constexpr(48)
_COUNTED: Final = tl.constexpr(1 << 48)
_MASS: Final = tl.constexpr((1 << 48) - 1)
# What a pass leaves for each part: the mass of all tokens and the number of those that have any; then mass and number of
# those above each of three bounds.
_SUMS: Final = tl.constexpr(8)


@triton.jit
def _guess(
    logits, best, temperature, min_p, top_p, bounds, counters, vocab, logits_stride,
    HAS_MIN_P: tl.constexpr, TILE: tl.constexpr, STEP: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    release(PDL)
    wait(PDL)
    row = tl.program_id(0).to(tl.int64)
    least = tl.load(min_p + row) if HAS_MIN_P else 0.0
    at = tl.arange(0, TILE)
    weights = row_weights(
        logits + row * logits_stride, at, vocab, tl.load(best + row), tl.load(temperature + row), least
    )
    bits = weights.to(tl.int32, bitcast=True)
    part = tl.sum(weights, 0) * tl.load(top_p + row).to(tl.float32)
    guess, end = tl.full((), _LOWEST, tl.int32), tl.full((), _HIGHEST, tl.int32)
    while end - guess > STEP:
        middle = guess + (end - guess) // 2
        enough = tl.sum(tl.where(bits >= middle, weights, 0.0), 0) >= part
        guess = tl.where(enough, middle, guess)
        end = tl.where(enough, end, middle)
    tl.store(bounds + row, tl.maximum(guess - STEP // 2, _LOWEST + 1))
    tl.store(counters + row, 0)


@triton.jit
def _part_bits(
    logits, part, row, vocab, best, temperature, min_p, logits_stride, HAS_MIN_P: tl.constexpr, PART: tl.constexpr
):
    least = tl.load(min_p + row) if HAS_MIN_P else 0.0
    at = part * PART + tl.arange(0, PART)
    weights = row_weights(
        logits + row * logits_stride, at, vocab, tl.load(best + row), tl.load(temperature + row), least
    )
    return weights.to(tl.int32, bitcast=True), whole_of(weights)


@triton.jit
def _store_above(bits, whole, bound, sums):
    above = bits >= bound
    tl.store(sums, tl.sum(tl.where(above, whole, 0), 0))
    tl.store(sums + 1, tl.sum(above.to(tl.int32), 0).to(tl.int64))


@triton.jit
def _around_guess(
    logits, best, temperature, min_p, bounds, sums, vocab, parts, logits_stride,
    HAS_MIN_P: tl.constexpr, PART: tl.constexpr, STEP: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    release(PDL)
    wait(PDL)
    part, row = tl.program_id(0), tl.program_id(1).to(tl.int64)
    bits, whole = _part_bits(logits, part, row, vocab, best, temperature, min_p, logits_stride, HAS_MIN_P, PART)
    bound = tl.load(bounds + row)
    sums += (row * parts + part) * _SUMS
    _store_above(bits, whole, _LOWEST, sums)
    _store_above(bits, whole, bound, sums + 2)
    _store_above(bits, whole, bound + STEP, sums + 4)
    _store_above(bits, whole, bound + 2 * STEP, sums + 6)


@triton.jit
def _narrowed(total, count, mass, bound, low, low_count, high, high_count, high_mass):
    """Move the bound below or above the answer to ``bound``; ``total`` and ``count`` are of tokens of at least that weight."""
    below = (total >= mass) & (bound > low) & (bound < high)
    above = (total < mass) & (bound > low) & (bound < high)
    return (
        tl.where(below, bound, low),
        tl.where(below, count, low_count),
        tl.where(above, bound, high),
        tl.where(above, count, high_count),
        tl.where(above, total, high_mass),
    )


@triton.jit
def _column(sums, row, parts, column, PADDED: tl.constexpr):
    part = tl.arange(0, PADDED)
    return tl.sum(tl.load(sums + (row * parts + part) * _SUMS + column, mask=part < parts, other=0), 0)


@triton.jit
def _range_of(sums, bounds, top_p, row, parts, STEP: tl.constexpr, PADDED: tl.constexpr):
    """Return the mass asked for, and between which bits the answer lies, with the tokens above both."""
    mass = mass_of(_column(sums, row, parts, 0, PADDED), tl.load(top_p + row))
    bound = tl.load(bounds + row)
    low, high = tl.full((), _LOWEST, tl.int32), tl.full((), _HIGHEST, tl.int32)
    low_count, high_count = _column(sums, row, parts, 1, PADDED), tl.full((), 0, tl.int64)
    high_mass = tl.full((), 0, tl.int64)
    for at in tl.static_range(3):
        low, low_count, high, high_count, high_mass = _narrowed(
            _column(sums, row, parts, 2 + 2 * at, PADDED), _column(sums, row, parts, 3 + 2 * at, PADDED), mass,
            bound + at * STEP, low, low_count, high, high_count, high_mass,
        )  # fmt: skip
    return mass, low, low_count, high, high_count, high_mass


@triton.jit
def _collect(
    logits, best, temperature, min_p, top_p, bounds, sums, scratch, counters, vocab, parts, logits_stride,
    HAS_MIN_P: tl.constexpr, PART: tl.constexpr, TILE: tl.constexpr, STEP: tl.constexpr, PADDED: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    release(PDL)
    wait(PDL)
    part, row = tl.program_id(0), tl.program_id(1).to(tl.int64)
    _mass, low, low_count, high, high_count, _high = _range_of(sums, bounds, top_p, row, parts, STEP, PADDED)
    if low_count - high_count <= TILE:
        bits, _ = _part_bits(logits, part, row, vocab, best, temperature, min_p, logits_stride, HAS_MIN_P, PART)
        between = (bits >= low) & (bits < high)
        at = tl.atomic_add(counters + row + tl.zeros_like(bits), 1, mask=between, sem="relaxed")
        # Logits that are not numbers make counts meaningless; what is drawn then is too, but memory is not at stake.
        tl.store(scratch + row * TILE + at, bits, mask=between & (at < TILE))


@triton.jit
def _tile_bits(logits, first, vocab, best, temperature, min_p, ROWS: tl.constexpr):
    at = first + tl.arange(0, ROWS)[:, None] * 4 + tl.arange(0, 4)[None, :]
    weights = row_weights(logits, at, vocab, best, temperature, min_p)
    return weights.to(tl.int32, bitcast=True), whole_of(weights) + _COUNTED


@triton.jit
def _above(bits, counted, bound):
    return tl.sum(tl.where(bits >= bound, counted, 0), 1)


@triton.jit
def _search(
    logits, best, temperature, min_p, top_p, bounds, sums, scratch, counters, found, vocab, parts, logits_stride,
    HAS_MIN_P: tl.constexpr, TILE: tl.constexpr, ROWS: tl.constexpr, STEP: tl.constexpr, PADDED: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    release(PDL)
    wait(PDL)
    row = tl.program_id(0).to(tl.int64)
    if tl.load(top_p + row) >= 1.0:
        tl.store(found + row, 0)
        return
    mass, low, low_count, high, high_count, high_mass = _range_of(sums, bounds, top_p, row, parts, STEP, PADDED)
    logits += row * logits_stride
    scratch += row * TILE
    collected = tl.load(counters + row)
    if low_count - high_count > TILE:
        largest, heat = tl.load(best + row), tl.load(temperature + row)
        least = tl.load(min_p + row) if HAS_MIN_P else 0.0
        while (low_count - high_count > TILE) & (high - low > 1):
            step = tl.maximum((high - low) // 4, 1)
            bound1, bound2, bound3 = low + step, low + 2 * step, low + 3 * step
            sums1 = tl.zeros((ROWS,), tl.int64)
            sums2 = tl.zeros((ROWS,), tl.int64)
            sums3 = tl.zeros((ROWS,), tl.int64)
            for first in range(0, vocab, TILE):
                bits, counted = _tile_bits(logits, first, vocab, largest, heat, least, ROWS)
                sums1 += _above(bits, counted, bound1)
                sums2 += _above(bits, counted, bound2)
                sums3 += _above(bits, counted, bound3)
            low, low_count, high, high_count, high_mass = _narrowed(
                tl.sum(sums1 & _MASS, 0), tl.sum(sums1 >> _COUNT, 0), mass, bound1,
                low, low_count, high, high_count, high_mass,
            )  # fmt: skip
            low, low_count, high, high_count, high_mass = _narrowed(
                tl.sum(sums2 & _MASS, 0), tl.sum(sums2 >> _COUNT, 0), mass, bound2,
                low, low_count, high, high_count, high_mass,
            )  # fmt: skip
            low, low_count, high, high_count, high_mass = _narrowed(
                tl.sum(sums3 & _MASS, 0), tl.sum(sums3 >> _COUNT, 0), mass, bound3,
                low, low_count, high, high_count, high_mass,
            )  # fmt: skip
        collected = tl.full((), 0, tl.int32)
        if high - low > 1:
            for first in range(0, vocab, TILE):
                bits, _ = _tile_bits(logits, first, vocab, largest, heat, least, ROWS)
                between = (bits >= low) & (bits < high)
                at = tl.atomic_add(counters + row + tl.zeros_like(bits), 1, mask=between, sem="relaxed")
                tl.store(scratch + at, bits, mask=between & (at < TILE))
                collected += tl.sum(tl.sum(between.to(tl.int32), 1), 0)
            tl.debug_barrier()
    at = tl.arange(0, TILE)
    few = tl.load(scratch + at, mask=at < collected, other=0)
    whole = whole_of(few.to(tl.float32, bitcast=True))
    while high - low > 1:
        middle = low + (high - low) // 2
        enough = high_mass + tl.sum(tl.where(few >= middle, whole, 0), 0) >= mass
        low = tl.where(enough, middle, low)
        high = tl.where(enough, high, middle)
    tl.store(found + row, low)


def top_p_bits(
    logits: torch.Tensor,
    best: torch.Tensor,
    temperature: torch.Tensor,
    min_p: torch.Tensor | None,
    top_p: torch.Tensor,
) -> torch.Tensor:
    """Return the bits of the smallest weight that top-p keeps, int32 [n]; 0 for rows without top-p.

    Args:
        logits: [n, vocab] with whole rows.
        best: float32 [n], each row's largest logit.
        temperature, min_p, top_p: as for ``sample_full``.
    """
    rows, vocab = logits.shape
    place, stride, pdl = logits.device, logits.stride(0), keywords(logits.device)
    parts = triton.cdiv(vocab, PART)
    bounds, counters, found = torch.empty((3, rows), dtype=torch.int32, device=place).unbind(0)
    sums = torch.empty((rows, parts, 8), dtype=torch.int64, device=place)
    scratch = torch.empty((rows, TILE), dtype=torch.int32, device=place)
    limits, padded = {"HAS_MIN_P": min_p is not None, "STEP": STEP}, triton.next_power_of_2(parts)
    _guess[(rows,)](
        logits, best, temperature, min_p, top_p, bounds, counters, vocab, stride,
        **limits, TILE=TILE, num_warps=16, **pdl,
    )  # fmt: skip
    _around_guess[(parts, rows)](
        logits, best, temperature, min_p, bounds, sums, vocab, parts, stride, **limits, PART=PART, num_warps=8, **pdl
    )
    _collect[(parts, rows)](
        logits, best, temperature, min_p, top_p, bounds, sums, scratch, counters, vocab, parts, stride,
        **limits, PART=PART, TILE=TILE, PADDED=padded, num_warps=4, **pdl,
    )  # fmt: skip
    _search[(rows,)](
        logits, best, temperature, min_p, top_p, bounds, sums, scratch, counters, found, vocab, parts, stride,
        **limits, TILE=TILE, ROWS=TILE // 4, PADDED=padded, num_warps=16, **pdl,
    )  # fmt: skip
    return found
