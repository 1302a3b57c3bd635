"""The most likely tokens of each row, and drawing from them; see ``hardpoint.ops.ranking`` and ``hardpoint.ops.sampling``.

The ``k`` best tokens lie in the ``k`` blocks of the vocabulary with the largest maxima, the lowest blocks among equals. One
pass makes the maxima; one program a row then selects the blocks, of their tokens the ``k`` best, and orders these few.
Selecting searches the ``k``-th largest key bit by bit, two at a time, and takes the first of those that equal it.
"""

from __future__ import annotations

from typing import Final

import torch
import triton
import triton.language as tl

from hardpoint.ops.ranking import top_k_tokens as top_k_reference
from hardpoint.ops.sampling import sample_top_k as sample_reference
from hardpoint_triton.dependent import keywords, release, wait
from hardpoint_triton.sampling_best_kernels import WIDTH, block_maxima, ordered
from hardpoint_triton.sampling_weight_kernels import mass_of, target_of, weights_of, whole_of

#: Tokens that one program orders at most; more are the reference's.
MOST: Final = 128
_NOTHING: Final = tl.constexpr(-0x80000000)
_LOW: Final = tl.constexpr(0xFFFFFFFF)


@triton.jit
def _kth_largest(keys, k):
    """Return the ``k``-th largest of int32 ``keys``, of which there are fewer than 2**20: the largest bound that k reach."""
    bound = tl.where(tl.sum((keys >= 0).to(tl.int32), 0) >= k, 0, -0x80000000).to(tl.int32)
    half = bound + 0x40000000
    bound = tl.where(tl.sum((keys >= half).to(tl.int32), 0) >= k, half, bound)
    for pair in range(15):
        step = 1 << (28 - 2 * pair)
        one, two = (keys >= bound + step).to(tl.int64), (keys >= bound + 2 * step).to(tl.int64)
        three = (keys >= bound + 3 * step).to(tl.int64)
        counts = tl.sum(one + (two << 20) + (three << 40), 0)
        steps = ((counts & 0xFFFFF) >= k).to(tl.int32) + (((counts >> 20) & 0xFFFFF) >= k).to(tl.int32)
        bound += (steps + ((counts >> 40) >= k).to(tl.int32)) * step
    return bound


@triton.jit
def _places(keys, k):
    """Return which of ``keys`` are the ``k`` largest, the first ones among equals, and their places among these, in order."""
    bound = _kth_largest(keys, k)
    counted = (keys > bound).to(tl.int32) + ((keys == bound).to(tl.int32) << 16)
    before = tl.cumsum(counted, 0) - counted
    more = k - tl.sum((keys > bound).to(tl.int32), 0)
    chosen = (keys > bound) | ((keys == bound) & ((before >> 16) < more))
    return chosen, (before & 0xFFFF) + tl.minimum(before >> 16, more)


@triton.jit
def _best_ordered(
    logits, maxima, scratch, row, k, vocab, blocks, logits_stride,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """Return the ``k`` best tokens of a row in order as float32 [K] and int32 [K]; what follows them is minus infinity."""
    scratch += row * K
    block = tl.arange(0, PADDED)
    wanted = tl.minimum(k, blocks)
    keys = tl.load(maxima + row * blocks + block, mask=block < blocks, other=_NOTHING)
    chosen, place = _places(tl.where(block < blocks, keys, _NOTHING), wanted)
    tl.store(scratch + place, block.to(tl.int64), mask=chosen & (place < wanted))
    tl.debug_barrier()
    slot = tl.arange(0, K)
    first = tl.load(scratch + slot, mask=slot < wanted, other=0).to(tl.int32) * WIDTH
    at = first[:, None] + tl.arange(0, WIDTH)[None, :]
    there = (slot < wanted)[:, None] & (at < vocab)
    values = tl.load(logits + row * logits_stride + at, mask=there, other=float("-inf")).to(tl.float32)
    flat = tl.reshape(tl.where(there, ordered(values), _NOTHING), (K * WIDTH,))
    ids = tl.reshape(at, (K * WIDTH,))
    chosen, place = _places(flat, k)
    tl.debug_barrier()
    tl.store(scratch + place, (flat.to(tl.int64) << 32) | (ids.to(tl.int64) ^ _LOW), mask=chosen & (place < k))
    tl.debug_barrier()
    nothing = tl.full((K,), -0x8000000000000000, tl.int64)
    best = tl.where(slot < k, tl.load(scratch + slot, mask=slot < k, other=0), nothing)
    best = tl.sort(best, 0, descending=True)
    key = (best >> 32).to(tl.int32)
    value = (key ^ ((key >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)
    return tl.where(slot < k, value, float("-inf")), ((best & _LOW) ^ _LOW).to(tl.int32)


@triton.jit
def _top_k(
    logits, maxima, scratch, values, ids, k, vocab, blocks, logits_stride,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, K: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    release(PDL)
    wait(PDL)
    row = tl.program_id(0).to(tl.int64)
    value, token = _best_ordered(logits, maxima, scratch, row, k, vocab, blocks, logits_stride, WIDTH, PADDED, K)
    at = tl.arange(0, K)
    tl.store(values + row * k + at, value, mask=at < k)
    tl.store(ids + row * k + at, token.to(tl.int64), mask=at < k)


@triton.jit
def _draw_top_k(
    logits, maxima, scratch, uniform, temperature, min_p, top_p, top_k, tokens, vocab, blocks, logits_stride,
    HAS_MIN_P: tl.constexpr, HAS_TOP_P: tl.constexpr,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, K: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    release(PDL)
    wait(PDL)
    row = tl.program_id(0).to(tl.int64)
    k = tl.minimum(tl.maximum(tl.load(top_k + row), 1), K).to(tl.int32)
    value, token = _best_ordered(logits, maxima, scratch, row, k, vocab, blocks, logits_stride, WIDTH, PADDED, K)
    at = tl.arange(0, K)
    best = tl.sum(tl.where(at == 0, value, 0.0), 0)
    least = tl.load(min_p + row) if HAS_MIN_P else 0.0
    weights = weights_of(value, best, tl.load(temperature + row), least)
    whole = tl.where(at < k, whole_of(weights), 0)
    if HAS_TOP_P:
        mass = mass_of(tl.sum(whole, 0), tl.load(top_p + row))
        last = tl.sum((tl.cumsum(whole, 0) - whole < mass).to(tl.int32), 0) - 1
        whole = tl.where(value < tl.sum(tl.where(at == last, value, 0.0), 0), 0, whole)
    target = target_of(tl.sum(whole, 0), tl.load(uniform + row))
    place = tl.minimum(tl.sum((tl.cumsum(whole, 0) <= target).to(tl.int32), 0), k - 1)
    drawn = tl.sum(tl.where(at == place, token, 0), 0)
    tl.store(tokens + row, tl.minimum(tl.maximum(drawn, 0), vocab - 1).to(tl.int64))


def top_k_tokens(logits: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """See ``hardpoint.ops.ranking.top_k_tokens``."""
    rows, vocab = logits.shape
    if not (0 < k <= MOST and rows):
        return top_k_reference(logits, k)
    logits = logits if logits.stride(1) == 1 else logits.contiguous()
    values = torch.empty((rows, k), dtype=torch.float32, device=logits.device)
    ids = torch.empty((rows, k), dtype=torch.int64, device=logits.device)
    maxima, scratch, sizes = _first_pass(logits, k)
    _top_k[(rows,)](
        logits, maxima, scratch, values, ids, k, vocab, maxima.shape[1], logits.stride(0),
        **sizes, num_warps=16, **keywords(logits.device),
    )  # fmt: skip
    return values, ids


def sample_top_k(
    logits: torch.Tensor,
    uniform: torch.Tensor,
    temperature: torch.Tensor,
    min_p: torch.Tensor | None,
    top_p: torch.Tensor | None,
    top_k: torch.Tensor,
    largest: int,
) -> torch.Tensor:
    """See ``hardpoint.ops.sampling.sample_top_k``."""
    rows, vocab = logits.shape
    if not (largest <= MOST and rows):
        return sample_reference(logits, uniform, temperature, min_p, top_p, top_k, largest)
    logits = logits if logits.stride(1) == 1 else logits.contiguous()
    tokens = torch.empty(rows, dtype=torch.int64, device=logits.device)
    maxima, scratch, sizes = _first_pass(logits, largest)
    _draw_top_k[(rows,)](
        logits, maxima, scratch, uniform, temperature, min_p, top_p, top_k, tokens,
        vocab, maxima.shape[1], logits.stride(0),
        HAS_MIN_P=min_p is not None, HAS_TOP_P=top_p is not None,
        **sizes, num_warps=16, **keywords(logits.device),
    )  # fmt: skip
    return tokens


def _first_pass(logits: torch.Tensor, most: int) -> tuple[torch.Tensor, torch.Tensor, dict[str, int]]:
    """Return the blocks' maxima, room for ``most`` tokens a row, and the sizes that the kernels are compiled for."""
    maxima = block_maxima(logits)
    padded = max(16, triton.next_power_of_2(most))
    scratch = torch.empty((len(logits), padded), dtype=torch.int64, device=logits.device)
    return maxima, scratch, {"WIDTH": WIDTH, "PADDED": triton.next_power_of_2(maxima.shape[1]), "K": padded}
