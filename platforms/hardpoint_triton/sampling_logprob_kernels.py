"""Log-probabilities of chosen tokens, and penalties; see ``hardpoint.ops.ranking`` and ``hardpoint.ops.sampling``.

A row's normaliser is the sum of ``exp(logit - best)``: each program adds a part of the vocabulary, and whoever reads the
parts adds them in their order, so that the sum is the same in every batch. The same pass counts the tokens that are more
likely than the row's own.
"""

from __future__ import annotations

from typing import Final

import torch
import triton
import triton.language as tl

from hardpoint_triton.dependent import keywords, release, wait
from hardpoint_triton.sampling_best_kernels import best_token
from hardpoint_triton.sampling_top_k_kernels import top_k_tokens

#: Tokens per program.
PART: Final = 4096


@triton.jit
def _parts(
    logits, best, tokens, sums, counts, vocab, parts, logits_stride,
    HAS_OWN: tl.constexpr, PART: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    release(PDL)
    wait(PDL)
    part, row = tl.program_id(0), tl.program_id(1).to(tl.int64)
    at = part * PART + tl.arange(0, PART)
    logits += row * logits_stride
    values = tl.load(logits + at, mask=at < vocab, other=float("-inf")).to(tl.float32)
    largest = tl.load(best + row)
    tl.store(sums + row * parts + part, tl.sum(tl.where(at < vocab, tl.exp(values - largest), 0.0), 0))
    if HAS_OWN:
        own = tl.load(logits + tl.load(tokens + row)).to(tl.float32)
        tl.store(counts + row * parts + part, tl.sum(((values > own) & (at < vocab)).to(tl.int32), 0))


@triton.jit
def _gather(
    logits, best, sums, counts, ids, values, ranks, width, parts, logits_stride,
    HAS_OWN: tl.constexpr, PADDED: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    release(PDL)
    wait(PDL)
    row, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    part = tl.arange(0, PADDED)
    total = tl.sum(tl.load(sums + row * parts + part, mask=part < parts, other=0.0), 0)
    shift = tl.load(best + row) + tl.log(total)
    at = block * BLOCK + tl.arange(0, BLOCK)
    chosen = tl.load(ids + row * width + at, mask=at < width, other=0)
    found = tl.load(logits + row * logits_stride + chosen, mask=at < width, other=0.0).to(tl.float32)
    tl.store(values + row * width + at, found - shift, mask=at < width)
    if HAS_OWN:
        if block == 0:
            before = tl.sum(tl.load(counts + row * parts + part, mask=part < parts, other=0), 0)
            tl.store(ranks + row, before.to(tl.int64) + 1)


def gather_logprobs(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """See ``hardpoint.ops.ranking.gather_logprobs``."""
    return _logprobs(logits, ids, None)[0]


def top_logprobs(logits: torch.Tensor, tokens: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """See ``hardpoint.ops.ranking.top_logprobs``."""
    ids = tokens.unsqueeze(-1)
    if k:
        ids = torch.cat((ids, top_k_tokens(logits, k)[1]), -1)
    values, ranks = _logprobs(logits, ids, tokens)
    return ids, values, ranks


def _logprobs(
    logits: torch.Tensor, ids: torch.Tensor, tokens: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return float32 [n, m] of ``ids`` and, where ``tokens`` are given, their ranks, int64 [n]."""
    logits = logits if logits.stride(1) == 1 else logits.contiguous()
    ids = ids.contiguous()
    rows, vocab = logits.shape
    place, width, parts = logits.device, ids.shape[1], triton.cdiv(vocab, PART)
    values = torch.empty((rows, width), dtype=torch.float32, device=place)
    ranks = torch.empty(rows, dtype=torch.int64, device=place)
    if not rows or not width:
        return values, ranks
    own, pdl = tokens is not None, keywords(place)
    best = best_token(logits)[1]
    sums = torch.empty((rows, parts), dtype=torch.float32, device=place)
    counts = torch.empty((rows, parts) if own else 0, dtype=torch.int32, device=place)
    _parts[(parts, rows)](
        logits, best, tokens if own else best, sums, counts, vocab, parts, logits.stride(0),
        HAS_OWN=own, PART=PART, num_warps=8, **pdl,
    )  # fmt: skip
    block = min(1024, triton.next_power_of_2(width))
    _gather[(rows, triton.cdiv(width, block))](
        logits, best, sums, counts, ids, values, ranks, width, parts, logits.stride(0),
        HAS_OWN=own, PADDED=triton.next_power_of_2(parts), BLOCK=block, num_warps=4, **pdl,
    )  # fmt: skip
    return values, ranks


@triton.jit
def _penalize(
    logits, rows, in_prompt, counts, presence, frequency, repetition, vocab, logits_stride,
    PART: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    release(PDL)
    wait(PDL)
    part, at_row = tl.program_id(0), tl.program_id(1).to(tl.int64)
    at = part * PART + tl.arange(0, PART)
    there = at < vocab
    table = tl.load(rows + at_row) * vocab
    count = tl.load(counts + table + at, mask=there, other=0)
    sampled = count > 0
    known = sampled | (tl.load(in_prompt + table + at, mask=there, other=0) != 0)
    factor = tl.load(repetition + at_row)
    value = tl.load(logits + at_row * logits_stride + at, mask=there, other=0.0)
    value = tl.where(known, tl.where(value > 0, tl.div_rn(value, factor), value * factor), value)
    value = tl.where(sampled, value - tl.load(frequency + at_row) * count.to(tl.float32), value)
    value = tl.where(sampled, value - tl.load(presence + at_row), value)
    tl.store(logits + at_row * logits_stride + at, value, mask=there)


def apply_penalties(
    logits: torch.Tensor,
    rows: torch.Tensor,
    in_prompt: torch.Tensor,
    counts: torch.Tensor,
    presence: torch.Tensor,
    frequency: torch.Tensor,
    repetition: torch.Tensor,
) -> torch.Tensor:
    """See ``hardpoint.ops.sampling.apply_penalties``."""
    count, vocab = logits.shape
    if count:
        _penalize[(triton.cdiv(vocab, PART), count)](
            logits, rows, in_prompt, counts, presence, frequency, repetition, vocab, logits.stride(0),
            PART=PART, num_warps=8, **keywords(logits.device),
        )  # fmt: skip
    return logits
