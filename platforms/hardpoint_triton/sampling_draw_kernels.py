"""Drawing from the whole vocabulary without sorting it; see ``hardpoint.ops.sampling`` for the exact meaning.

Weights are whole numbers, so their sums do not depend on the order and every program may add its own part. A pass gives the
sum of each part of the vocabulary, and one program a row then finds the part and the token at which the running sum exceeds
its target.

Top-p asks for the largest weight ``t`` for which the tokens of at least this weight hold the mass. A float's bits order
positive floats, so ``t`` is searched among bits: each pass over the vocabulary sums the weights above three values between
two bounds and keeps the part in which the answer lies, until few enough tokens are between the bounds to be collected and
searched without further passes. The first three values are around the answer for the first tokens alone, which in a flat
distribution is close, and in a steep one leaves few tokens above.
"""

from __future__ import annotations

from typing import Final

import torch
import triton
import triton.language as tl

from hardpoint_triton.dependent import keywords, release, wait
from hardpoint_triton.sampling_best_kernels import best_token

#: Tokens per part.
PART: Final = 2048
#: Tokens that the search for top-p's last token holds at once, and collects at most.
TILE: Final = 8192
#: Distance of the first values at which weights are summed: an eighth of an octave.
STEP: Final = 2**20
_ONE: Final = tl.constexpr(1099511627776.0)
# A sum of weights and their number in one integer: at most 64 weights of 2**40 are added before the two are taken apart.
_COUNT: Final = tl.constexpr(48)
_COUNTED: Final = tl.constexpr(1 << 48)
_MASS: Final = tl.constexpr((1 << 48) - 1)


@triton.jit
def weights_of(values, best, temperature, min_p):
    """Return float32 weights relative to the best token, 0 below min-p."""
    weights = tl.exp(tl.div_rn(values - best, temperature))
    return tl.where(weights < min_p, 0.0, weights)


@triton.jit
def mass_of(total, top_p):
    """Return the mass that ``top_p`` asks for, at least 1."""
    product = total.to(tl.float64) * top_p
    part = product.to(tl.int64)
    part += (part.to(tl.float64) < product).to(tl.int64)
    return tl.maximum(tl.where(top_p < 1.0, part, total), 1)


@triton.jit
def target_of(total, uniform):
    """Return the point in [0, total) that ``uniform`` stands for."""
    return tl.minimum((uniform * total.to(tl.float64)).to(tl.int64), total - 1)


@triton.jit
def _row_weights(logits, at, vocab, best, temperature, min_p):
    values = tl.load(logits + at, mask=at < vocab, other=float("-inf")).to(tl.float32)
    return tl.where(at < vocab, weights_of(values, best, temperature, min_p), 0.0)


@triton.jit
def _tile_bits(logits, first, vocab, best, temperature, min_p, ROWS: tl.constexpr):
    at = first + tl.arange(0, ROWS)[:, None] * 4 + tl.arange(0, 4)[None, :]
    weights = _row_weights(logits, at, vocab, best, temperature, min_p)
    counted = (weights * _ONE).to(tl.int64) + _COUNTED
    return weights.to(tl.int32, bitcast=True), counted


@triton.jit
def _above(bits, counted, bound):
    return tl.sum(tl.where(bits >= bound, counted, 0), 1)


@triton.jit
def _narrowed(sums, mass, bound, low, low_count, high, high_count, high_mass):
    """Move the bound below or above the answer to ``bound``, for whose tokens ``sums`` was taken."""
    total, count = tl.sum(sums & _MASS, 0), tl.sum(sums >> _COUNT, 0)
    below = (total >= mass) & (bound > low) & (bound < high)
    above = (total < mass) & (bound < high)
    return (
        tl.where(below, bound, low),
        tl.where(below, count, low_count),
        tl.where(above, bound, high),
        tl.where(above, count, high_count),
        tl.where(above, total, high_mass),
    )


@triton.jit
def _top_p_bits(
    logits, best, temperature, min_p, top_p, scratch, counters, bits_out, vocab, logits_stride,
    HAS_MIN_P: tl.constexpr, TILE: tl.constexpr, ROWS: tl.constexpr, STEP: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    release(PDL)
    wait(PDL)
    row = tl.program_id(0).to(tl.int64)
    wanted = tl.load(top_p + row)
    if wanted >= 1.0:
        tl.store(bits_out + row, 0)
        return
    logits += row * logits_stride
    scratch += row * TILE
    largest, heat = tl.load(best + row), tl.load(temperature + row)
    least = tl.load(min_p + row) if HAS_MIN_P else 0.0
    sums = tl.zeros((ROWS,), tl.int64)
    for first in range(0, vocab, TILE):
        _, counted = _tile_bits(logits, first, vocab, largest, heat, least, ROWS)
        sums += tl.sum(counted & _MASS, 1)
    mass = mass_of(tl.sum(sums, 0), wanted)
    bits, _ = _tile_bits(logits, 0, vocab, largest, heat, least, ROWS)
    weights = bits.to(tl.float32, bitcast=True)
    part = tl.sum(tl.sum(weights, 1), 0) * wanted.to(tl.float32)
    # Tokens of weight below 2**-40 have no mass and are below every bound but the first.
    low, high = tl.full((), 0x2B7FFFFF, tl.int32), tl.full((), 0x3F800001, tl.int32)
    low_count, high_count = tl.full((), 0, tl.int64) + vocab, tl.full((), 0, tl.int64)
    high_mass = tl.full((), 0, tl.int64)
    guess, guess_end = low, high
    while guess_end - guess > STEP:
        middle = guess + (guess_end - guess) // 2
        enough = tl.sum(tl.sum(tl.where(bits >= middle, weights, 0.0), 1), 0) >= part
        guess = tl.where(enough, middle, guess)
        guess_end = tl.where(enough, guess_end, middle)
    step = tl.full((), STEP, tl.int32)
    bound1 = tl.maximum(guess - STEP // 2, low + 1)
    while (low_count - high_count > TILE) & (high - low > 1):
        bound2, bound3 = bound1 + step, bound1 + 2 * step
        sums1 = tl.zeros((ROWS,), tl.int64)
        sums2 = tl.zeros((ROWS,), tl.int64)
        sums3 = tl.zeros((ROWS,), tl.int64)
        for first in range(0, vocab, TILE):
            bits, counted = _tile_bits(logits, first, vocab, largest, heat, least, ROWS)
            sums1 += _above(bits, counted, bound1)
            sums2 += _above(bits, counted, bound2)
            sums3 += _above(bits, counted, bound3)
        low, low_count, high, high_count, high_mass = _narrowed(
            sums1, mass, bound1, low, low_count, high, high_count, high_mass
        )
        low, low_count, high, high_count, high_mass = _narrowed(
            sums2, mass, bound2, low, low_count, high, high_count, high_mass
        )
        low, low_count, high, high_count, high_mass = _narrowed(
            sums3, mass, bound3, low, low_count, high, high_count, high_mass
        )
        step = tl.maximum((high - low) // 4, 1)
        bound1 = low + step
    if high - low > 1:
        tl.store(counters + row, 0)
        tl.debug_barrier()
        collected = tl.full((), 0, tl.int32)
        for first in range(0, vocab, TILE):
            bits, _ = _tile_bits(logits, first, vocab, largest, heat, least, ROWS)
            between = (bits >= low) & (bits < high)
            at = tl.atomic_add(counters + row + tl.zeros_like(bits), 1, mask=between, sem="relaxed")
            # Logits that are not numbers make counts meaningless; what is drawn then is too, but memory is not at stake.
            tl.store(scratch + at, bits, mask=between & (at < TILE))
            collected += tl.sum(tl.sum(between.to(tl.int32), 1), 0)
        tl.debug_barrier()
        at = tl.arange(0, TILE)
        few = tl.load(scratch + at, mask=at < collected, other=0)
        whole = (few.to(tl.float32, bitcast=True) * _ONE).to(tl.int64)
        while high - low > 1:
            middle = low + (high - low) // 2
            enough = high_mass + tl.sum(tl.where(few >= middle, whole, 0), 0) >= mass
            low = tl.where(enough, middle, low)
            high = tl.where(enough, high, middle)
    tl.store(bits_out + row, low)


@triton.jit
def _part_weights(
    logits, first, bits_out, row, vocab, best, temperature, min_p,
    HAS_MIN_P: tl.constexpr, HAS_TOP_P: tl.constexpr, PART: tl.constexpr,
):  # fmt: skip
    least = tl.load(min_p + row) if HAS_MIN_P else 0.0
    at = first + tl.arange(0, PART)
    weights = _row_weights(logits, at, vocab, tl.load(best + row), tl.load(temperature + row), least)
    whole = (weights * _ONE).to(tl.int64)
    if HAS_TOP_P:
        whole = tl.where(weights.to(tl.int32, bitcast=True) >= tl.load(bits_out + row), whole, 0)
    return whole


@triton.jit
def _part_sums(
    logits, best, temperature, min_p, bits_out, sums, vocab, parts, logits_stride,
    HAS_MIN_P: tl.constexpr, HAS_TOP_P: tl.constexpr, PART: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    release(PDL)
    wait(PDL)
    part, row = tl.program_id(0), tl.program_id(1).to(tl.int64)
    whole = _part_weights(
        logits + row * logits_stride, part * PART, bits_out, row, vocab, best, temperature, min_p,
        HAS_MIN_P, HAS_TOP_P, PART,
    )  # fmt: skip
    tl.store(sums + row * parts + part, tl.sum(whole, 0))


@triton.jit
def _draw(
    logits, best, temperature, min_p, bits_out, sums, uniform, tokens, vocab, parts, logits_stride,
    HAS_MIN_P: tl.constexpr, HAS_TOP_P: tl.constexpr, PART: tl.constexpr, PADDED: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    release(PDL)
    wait(PDL)
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, PADDED)
    masses = tl.load(sums + row * parts + at, mask=at < parts, other=0)
    target = target_of(tl.sum(masses, 0), tl.load(uniform + row))
    part = tl.minimum(tl.sum((tl.cumsum(masses, 0) <= target).to(tl.int32), 0), parts - 1)
    rest = target - tl.sum(tl.where(at < part, masses, 0), 0)
    whole = _part_weights(
        logits + row * logits_stride, part * PART, bits_out, row, vocab, best, temperature, min_p,
        HAS_MIN_P, HAS_TOP_P, PART,
    )  # fmt: skip
    token = part * PART + tl.sum((tl.cumsum(whole, 0) <= rest).to(tl.int32), 0)
    tl.store(tokens + row, tl.minimum(token, vocab - 1).to(tl.int64))


def sample_full(
    logits: torch.Tensor,
    uniform: torch.Tensor,
    temperature: torch.Tensor,
    min_p: torch.Tensor | None,
    top_p: torch.Tensor | None,
) -> torch.Tensor:
    """See ``hardpoint.ops.sampling.sample_full``."""
    rows, vocab = logits.shape
    place = logits.device
    if not rows:
        return torch.empty(0, dtype=torch.int64, device=place)
    _, best = best_token(logits)
    parts, pdl = triton.cdiv(vocab, PART), keywords(place)
    bits = torch.empty(rows if top_p is not None else 0, dtype=torch.int32, device=place)
    if top_p is not None:
        scratch = torch.empty((rows, TILE), dtype=torch.int32, device=place)
        counters = torch.empty(rows, dtype=torch.int32, device=place)
        _top_p_bits[(rows,)](
            logits, best, temperature, min_p, top_p, scratch, counters, bits, vocab, logits.stride(0),
            HAS_MIN_P=min_p is not None, TILE=TILE, ROWS=TILE // 4, STEP=STEP, num_warps=16, **pdl,
        )  # fmt: skip
    sums = torch.empty((rows, parts), dtype=torch.int64, device=place)
    limits = {"HAS_MIN_P": min_p is not None, "HAS_TOP_P": top_p is not None, "PART": PART}
    _part_sums[(parts, rows)](
        logits, best, temperature, min_p, bits, sums, vocab, parts, logits.stride(0), **limits, num_warps=4, **pdl
    )
    tokens = torch.empty(rows, dtype=torch.int64, device=place)
    _draw[(rows,)](
        logits, best, temperature, min_p, bits, sums, uniform, tokens, vocab, parts, logits.stride(0),
        **limits, PADDED=triton.next_power_of_2(parts), num_warps=8, **pdl,
    )  # fmt: skip
    return tokens
