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

#: Pairs up to which every expert looks through all of them for its own.
FEW_PAIRS: Final = 8192
#: Pairs that one program sorts where they are more.
CHUNK: Final = 256
SCORES: Final = {"softmax": 0, "softmax_of_chosen": 1, "sigmoid": 2}


@triton.jit
def _preference(value, lane):
    """Return keys that order experts by logit, and equal logits by ascending ``lane``: no two are equal.

    Logits of 16 bits make int32 keys, of which a warp finds the largest in one instruction; float32 ones make int64 keys.
    """
    if value.dtype.primitive_bitwidth == 16:
        bits = value.to(tl.int16, bitcast=True).to(tl.int32)
        key = ((bits ^ ((bits >> 15) & 0x7FFF)) << 16) | (0xFFFF - lane)
    else:
        bits = value.to(tl.int32, bitcast=True)
        key = ((bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.int64) << 32) | (0xFFFF - lane)
    return key


@triton.jit
def _preferred(key, KIND: tl.constexpr):
    """Return the logit, in float32, and the lane of a preference between logits of type ``KIND``."""
    if KIND.primitive_bitwidth == 16:
        ordered = key >> 16
        value = (ordered ^ ((ordered >> 15) & 0x7FFF)).to(tl.int16).to(KIND, bitcast=True).to(tl.float32)
    else:
        ordered = (key >> 32).to(tl.int32)
        value = (ordered ^ ((ordered >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)
    return value, 0xFFFF - (key & 0xFFFF).to(tl.int32)


@triton.jit(do_not_specialize=["tokens"])
def _choose(logits, weights, ids, tokens, stride, EXPERTS: tl.constexpr, PADDED: tl.constexpr, K: tl.constexpr,
            K_PAD: tl.constexpr, SCORE: tl.constexpr, RENORMALIZE: tl.constexpr, ROWS: tl.constexpr,
            PDL: tl.constexpr):  # fmt: skip
    dependent.release(PDL)
    dependent.wait(PDL)
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    lane = tl.arange(0, PADDED)[None, :]
    live = (row < tokens)[:, None] & (lane < EXPERTS)
    values = tl.load(logits + row[:, None] * stride + lane, mask=live, other=float("-inf"))
    keys = _preference(values, lane)
    slot = tl.arange(0, K_PAD)[None, :]
    chosen = tl.full((ROWS, K_PAD), float("-inf"), tl.float32)
    experts = tl.zeros((ROWS, K_PAD), tl.int32)
    for index in tl.static_range(K):
        best = tl.max(keys, 1)
        value, expert = _preferred(best, logits.dtype.element_ty)
        chosen = tl.where(slot == index, value[:, None], chosen)
        experts = tl.where(slot == index, expert[:, None], experts)
        keys = tl.where(keys == best[:, None], -(2 ** (keys.dtype.primitive_bitwidth - 1)), keys)
    top = tl.max(chosen, 1)
    if SCORE == 0:
        total = tl.sum(tl.where(lane < EXPERTS, tl.exp(values.to(tl.float32) - top[:, None]), 0.0), 1)
        chosen = tl.exp(chosen - top[:, None]) / total[:, None]
    elif SCORE == 1:
        chosen = tl.exp(chosen - top[:, None])
        chosen = chosen / tl.sum(chosen, 1)[:, None]
    else:
        chosen = 1.0 / (1.0 + tl.exp(-chosen))
    if RENORMALIZE:
        chosen = chosen / tl.sum(chosen, 1)[:, None]
    at = row[:, None] * K + slot
    there = (row < tokens)[:, None] & (slot < K)
    tl.store(weights + at, chosen.to(weights.dtype.element_ty), mask=there)
    tl.store(ids + at, experts.to(tl.int64), mask=there)


def topk_router(
    logits: torch.Tensor, k: int, renormalize: bool, score: str = "softmax"
) -> tuple[torch.Tensor, torch.Tensor]:
    """See ``hardpoint.ops.moe.topk_router``."""
    return route(logits, k, renormalize, score, torch.float32)


def route(
    logits: torch.Tensor, k: int, renormalize: bool, score: str, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose experts as ``topk_router`` does, with weights rounded to ``dtype``."""
    tokens, experts = logits.shape
    logits = logits if logits.stride(1) == 1 else logits.contiguous()
    weights = torch.empty((tokens, k), dtype=dtype, device=logits.device)
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
def _list_tiles(tile_expert, tile_start, tile_stop, expert, start, count, tiles, experts, TILE: tl.constexpr):
    """List an expert's tiles.

    They begin where they would if every expert before it had left one tile partly filled: no expert needs to know the
    others' tiles, and those between two experts' stay empty.
    """
    tile = start // TILE + expert
    after = (start + count) // TILE + expert + 1
    if expert == experts - 1:
        after = tiles
    for index in range(tile, after):
        begin = start + (index - tile) * TILE
        tl.store(tile_expert + index, tl.where(begin < start + count, expert, -1))
        tl.store(tile_start + index, begin)
        tl.store(tile_stop + index, start + count)


@triton.jit(do_not_specialize=["pairs", "tiles"])
def _sort(ids, order, tile_expert, tile_start, tile_stop, pairs, tiles, first, experts,
          TILE: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr):  # fmt: skip
    """Find one expert's pairs among all: twice over them, which is cheap while they are few."""
    dependent.wait(PDL)
    dependent.release(PDL)
    expert = tl.program_id(0)
    start, count = 0, 0
    for block in range(0, pairs, BLOCK):
        local = _local(ids, block + tl.arange(0, BLOCK), pairs, first, experts)
        start += tl.sum(((local >= 0) & (local < expert)).to(tl.int32), 0)
        count += tl.sum((local == expert).to(tl.int32), 0)
    _list_tiles(tile_expert, tile_start, tile_stop, expert, start, count, tiles, experts, TILE)
    if count > 0:
        place = start
        for block in range(0, pairs, BLOCK):
            at = block + tl.arange(0, BLOCK)
            mine = _local(ids, at, pairs, first, experts) == expert
            rank = tl.cumsum(mine.to(tl.int32), 0)
            tl.store(order + place + rank - 1, at, mask=mine)
            place += tl.sum(mine.to(tl.int32), 0)


@triton.jit(do_not_specialize=["pairs"])
def _count(ids, counts, pairs, first, experts, BINS: tl.constexpr, CHUNK: tl.constexpr, PDL: tl.constexpr):
    """Count each expert's pairs in one chunk; bin 0 holds those of experts that live elsewhere."""
    dependent.wait(PDL)
    dependent.release(PDL)
    chunk = tl.program_id(0)
    local = _local(ids, chunk * CHUNK + tl.arange(0, CHUNK), pairs, first, experts)
    tl.store(counts + chunk * BINS + tl.arange(0, BINS), tl.histogram(local + 1, BINS))


@triton.jit(do_not_specialize=["chunks", "tiles"])
def _place(counts, before, starts, tile_expert, tile_start, tile_stop, chunks, tiles, experts, TILE: tl.constexpr,
           BINS: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr):  # fmt: skip
    """Find where one expert's pairs begin, and how many of them each chunk has before it."""
    dependent.wait(PDL)
    dependent.release(PDL)
    expert = tl.program_id(0)
    lane = tl.arange(0, BINS)
    start, count = 0, 0
    for block in range(0, chunks, BLOCK):
        chunk = block + tl.arange(0, BLOCK)
        there = chunk < chunks
        held = tl.load(counts + chunk[:, None] * BINS + lane[None, :], mask=there[:, None], other=0)
        start += tl.sum(tl.sum(tl.where((lane > 0) & (lane <= expert), held, 0), 1), 0)
        mine = tl.sum(tl.where(lane == expert + 1, held, 0), 1)
        tl.store(before + chunk * BINS + expert, count + tl.cumsum(mine, 0) - mine, mask=there)
        count += tl.sum(mine, 0)
    tl.store(starts + expert, start)
    _list_tiles(tile_expert, tile_start, tile_stop, expert, start, count, tiles, experts, TILE)


@triton.jit(do_not_specialize=["pairs"])
def _scatter(ids, order, before, starts, pairs, first, experts, BINS: tl.constexpr, CHUNK: tl.constexpr,
             PDL: tl.constexpr):  # fmt: skip
    """Write one chunk's pairs to their places."""
    dependent.wait(PDL)
    dependent.release(PDL)
    chunk = tl.program_id(0)
    lane = tl.arange(0, CHUNK)
    local = _local(ids, chunk * CHUNK + lane, pairs, first, experts)
    earlier = (local[:, None] == local[None, :]) & (lane[None, :] < lane[:, None])
    rank = tl.sum(earlier.to(tl.int32), 1)
    here = local >= 0
    place = tl.load(starts + local, mask=here, other=0) + tl.load(before + chunk * BINS + local, mask=here, other=0)
    tl.store(order + place + rank, chunk * CHUNK + lane, mask=here)


class SortedPairs:
    """Pairs sorted by expert and cut into tiles of at most ``tile`` pairs of one expert.

    Attributes:
        order: int32 [pairs], the pairs' numbers; what follows the last pair of an expert here is not written.
        expert: int32 [num_tiles], or -1 for an empty tile.
        start, stop: int32 [num_tiles], a tile's first place in ``order`` and the end of its expert's pairs.
        num_tiles: a bound that depends on the shapes alone.
    """

    __slots__ = ("expert", "num_tiles", "order", "start", "stop")

    def __init__(self, ids: torch.Tensor, experts: int, first: int, tile: int, *, few: int = FEW_PAIRS) -> None:
        pairs, device, pdl = ids.numel(), ids.device, dependent.keywords(ids.device)
        self.num_tiles = pairs // tile + experts
        self.order = torch.empty(pairs, dtype=torch.int32, device=device)
        table = torch.empty((3, self.num_tiles), dtype=torch.int32, device=device)
        self.expert, self.start, self.stop = table[0], table[1], table[2]
        if pairs <= few:
            block = min(4096, max(128, triton.next_power_of_2(pairs)))
            _sort[(experts,)](
                ids, self.order, self.expert, self.start, self.stop, pairs, self.num_tiles, first, experts,
                TILE=tile, BLOCK=block, num_warps=max(1, min(8, block // 256)), **pdl,
            )  # fmt: skip
            return
        chunks, bins = triton.cdiv(pairs, CHUNK), triton.next_power_of_2(experts + 1)
        counts, before = torch.empty((2, chunks, bins), dtype=torch.int32, device=device)
        starts = torch.empty(experts, dtype=torch.int32, device=device)
        _count[(chunks,)](ids, counts, pairs, first, experts, BINS=bins, CHUNK=CHUNK, num_warps=2, **pdl)
        _place[(experts,)](
            counts, before, starts, self.expert, self.start, self.stop, chunks, self.num_tiles, experts, TILE=tile,
            BINS=bins, BLOCK=max(1, 8192 // bins), num_warps=8, **pdl,
        )  # fmt: skip
        _scatter[(chunks,)](
            ids, self.order, before, starts, pairs, first, experts, BINS=bins, CHUNK=CHUNK, num_warps=8, **pdl,
        )  # fmt: skip
