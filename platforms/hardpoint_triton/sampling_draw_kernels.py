"""Drawing from the whole vocabulary without sorting it; see ``hardpoint.ops.sampling`` for the exact meaning.

Weights are whole numbers, so their sums do not depend on the order and every program may add its own part. A pass gives the
sum of each part of the vocabulary, and one program a row then finds the part and the token at which the running sum exceeds
its target. Top-p's bound comes from ``sampling_top_p_kernels``.
"""

from __future__ import annotations

from typing import Final

import torch
import triton
import triton.language as tl

from hardpoint_triton.dependent import keywords, release, wait
from hardpoint_triton.sampling_best_kernels import best_token
from hardpoint_triton.sampling_top_p_kernels import top_p_bits
from hardpoint_triton.sampling_weight_kernels import row_weights, target_of, whole_of

#: Tokens per part.
PART: Final = 2048


@triton.jit
def _part_weights(
    logits, first, bits_out, row, vocab, best, temperature, min_p,
    HAS_MIN_P: tl.constexpr, HAS_TOP_P: tl.constexpr, PART: tl.constexpr,
):  # fmt: skip
    least = tl.load(min_p + row) if HAS_MIN_P else 0.0
    at = first + tl.arange(0, PART)
    weights = row_weights(logits, at, vocab, tl.load(best + row), tl.load(temperature + row), least)
    whole = whole_of(weights)
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
    logits = logits if logits.stride(1) == 1 else logits.contiguous()
    best = best_token(logits)[1]
    parts, pdl = triton.cdiv(vocab, PART), keywords(place)
    bits = best if top_p is None else top_p_bits(logits, best, temperature, min_p, top_p)
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
