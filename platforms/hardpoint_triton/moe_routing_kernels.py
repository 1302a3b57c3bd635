"""Choosing experts, and sorting (token, expert) pairs by expert on the device.

A *pair* is one choice of one token, numbered ``token * k + choice``. Sorted, the pairs of one expert stand together in
the order of their numbers, so that neither the batch's other tokens nor a race decide where a token's row is computed.
"""

from __future__ import annotations

from typing import Final

import torch
import triton
import triton.language as tl

from hardpoint_triton import dependent

SCORES: Final = {"softmax": 0, "softmax_of_chosen": 1, "sigmoid": 2}


@triton.jit
def choose_experts(values, experts: tl.constexpr, K: tl.constexpr, K_PAD: tl.constexpr, SCORE: tl.constexpr,
                   RENORMALIZE: tl.constexpr):  # fmt: skip
    """Return weights [rows, K_PAD] and ids [rows, K_PAD], best first, of float32 logits [rows, padded experts].

    Equal logits are chosen in ascending order of their experts. Columns from ``experts`` on hold minus infinity.
    """
    lane = tl.arange(0, values.shape[1])[None, :]
    slot = tl.arange(0, K_PAD)[None, :]
    top = tl.max(values, 1)
    if SCORE == 0:
        total = tl.sum(tl.exp(values - top[:, None]), 1)
    chosen = tl.full((values.shape[0], K_PAD), float("-inf"), tl.float32)
    ids = tl.zeros((values.shape[0], K_PAD), tl.int32)
    for index in tl.static_range(K):
        best = tl.max(values, 1)
        at = tl.min(tl.where(values == best[:, None], lane, experts - 1), 1)
        chosen = tl.where(slot == index, best[:, None], chosen)
        ids = tl.where(slot == index, at[:, None], ids)
        values = tl.where(lane == at[:, None], float("-inf"), values)
    if SCORE == 0:
        weights = tl.exp(chosen - top[:, None]) / total[:, None]
    elif SCORE == 1:
        weights = tl.exp(chosen - top[:, None])
        weights = weights / tl.sum(weights, 1)[:, None]
    else:
        weights = 1.0 / (1.0 + tl.exp(-chosen))
    if RENORMALIZE:
        weights = weights / tl.sum(weights, 1)[:, None]
    return weights, ids


@triton.jit
def _choose(logits, weights, ids, tokens, stride, EXPERTS: tl.constexpr, PADDED: tl.constexpr, K: tl.constexpr,
            K_PAD: tl.constexpr, SCORE: tl.constexpr, RENORMALIZE: tl.constexpr, ROWS: tl.constexpr,
            PDL: tl.constexpr):  # fmt: skip
    dependent.wait(PDL)
    dependent.release(PDL)
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    lane = tl.arange(0, PADDED)
    live = (row < tokens)[:, None] & (lane < EXPERTS)[None, :]
    values = tl.load(logits + row[:, None] * stride + lane[None, :], mask=live, other=float("-inf")).to(tl.float32)
    values = tl.where((row < tokens)[:, None] | (lane >= EXPERTS)[None, :], values, 0.0)
    chosen, experts = choose_experts(values, EXPERTS, K, K_PAD, SCORE, RENORMALIZE)
    slot = tl.arange(0, K_PAD)
    at = row[:, None] * K + slot[None, :]
    there = (row < tokens)[:, None] & (slot < K)[None, :]
    tl.store(weights + at, chosen, mask=there)
    tl.store(ids + at, experts.to(tl.int64), mask=there)


def topk_router(
    logits: torch.Tensor, k: int, renormalize: bool, score: str = "softmax"
) -> tuple[torch.Tensor, torch.Tensor]:
    """See ``hardpoint.ops.moe.topk_router``."""
    tokens, experts = logits.shape
    logits = logits if logits.stride(1) == 1 else logits.contiguous()
    weights = torch.empty((tokens, k), dtype=torch.float32, device=logits.device)
    ids = torch.empty((tokens, k), dtype=torch.int64, device=logits.device)
    if tokens:
        rows = 1 if tokens <= 512 else 4
        _choose[(triton.cdiv(tokens, rows),)](
            logits, weights, ids, tokens, logits.stride(0), EXPERTS=experts, PADDED=triton.next_power_of_2(experts),
            K=k, K_PAD=triton.next_power_of_2(k), SCORE=SCORES[score], RENORMALIZE=renormalize, ROWS=rows,
            num_warps=rows, **dependent.keywords(logits.device),
        )  # fmt: skip
    return weights, ids


@triton.jit
def _local(ids, at, pairs, first, experts):
    """Return the experts' places here of the pairs ``at``; -1 for experts that live elsewhere."""
    there = at < pairs
    local = tl.load(ids + at, mask=there, other=-1).to(tl.int32) - first
    return tl.where(there & (local >= 0) & (local < experts), local, -1)


@triton.jit
def _sort(ids, order, tile_expert, tile_start, tile_stop, pairs, tiles, first, experts,
          TILE: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr):  # fmt: skip
    dependent.wait(PDL)
    dependent.release(PDL)
    expert = tl.program_id(0)
    start, count = 0, 0
    for block in range(0, pairs, BLOCK):
        local = _local(ids, block + tl.arange(0, BLOCK), pairs, first, experts)
        start += tl.sum(((local >= 0) & (local < expert)).to(tl.int32), 0)
        count += tl.sum((local == expert).to(tl.int32), 0)
    # An expert's tiles begin where they would if every expert before it had left one tile partly filled: no expert
    # needs to know the others' counts, and the tiles between two experts' stay empty.
    tile = start // TILE + expert
    after = (start + count) // TILE + expert + 1
    if expert == experts - 1:
        after = tiles
    for index in range(tile, after):
        begin = start + (index - tile) * TILE
        tl.store(tile_expert + index, tl.where(begin < start + count, expert, -1))
        tl.store(tile_start + index, begin)
        tl.store(tile_stop + index, start + count)
    if count > 0:
        place = start
        for block in range(0, pairs, BLOCK):
            at = block + tl.arange(0, BLOCK)
            mine = _local(ids, at, pairs, first, experts) == expert
            rank = tl.cumsum(mine.to(tl.int32), 0)
            tl.store(order + place + rank - 1, at, mask=mine)
            place += tl.sum(mine.to(tl.int32), 0)


class SortedPairs:
    """Pairs sorted by expert and cut into tiles of at most ``tile`` pairs of one expert.

    Attributes:
        order: int32 [pairs], the pairs' numbers; what follows the last pair of an expert here is not written.
        expert: int32 [num_tiles], or -1 for an empty tile.
        start, stop: int32 [num_tiles], a tile's first place in ``order`` and the end of its expert's pairs.
        num_tiles: a bound that depends on the shapes alone.
    """

    __slots__ = ("expert", "num_tiles", "order", "start", "stop")

    def __init__(self, ids: torch.Tensor, experts: int, first: int, tile: int) -> None:
        pairs = ids.numel()
        self.num_tiles = pairs // tile + experts
        self.order = torch.empty(pairs, dtype=torch.int32, device=ids.device)
        table = torch.empty((3, self.num_tiles), dtype=torch.int32, device=ids.device)
        self.expert, self.start, self.stop = table[0], table[1], table[2]
        block = min(4096, max(128, triton.next_power_of_2(pairs)))
        _sort[(experts,)](
            ids, self.order, self.expert, self.start, self.stop, pairs, self.num_tiles, first, experts,
            TILE=tile, BLOCK=block, num_warps=max(1, min(8, block // 256)),
            **dependent.keywords(ids.device),
        )  # fmt: skip
