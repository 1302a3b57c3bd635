"""Decode attention in Triton: one token a request, work divided evenly over a fixed number of programs.

All contexts of a step are cut into tiles of ``BLOCK_N`` tokens and laid end to end: request by request, key/value head by
key/value head. Every program takes an equal run of tiles, whatever requests they belong to (Stream-K, Osama et al. 2023).
A *unit* is one request and key/value head. A program that has all tiles of a unit stores its result; the others store
partial results, and the last of them to arrive merges these in order (Flash-Decoding, Dao et al. 2023), so that the
result does not depend on who came last. Nothing but the launch's size depends on the host: contexts are known to the
device only when a step is replayed from a graph.
"""

from __future__ import annotations

import triton
import triton.language as tl

from hardpoint_triton import dependent
from hardpoint_triton.attention_kernels import LOG2_E, fit
from hardpoint_triton.stream_kernels import prefetch

#: int32 numbers per program: first tile, end tile, first unit, last unit; of the first unit's request: tiles before it,
#: tiles, context, first tile; the first program of the first unit, the last program of the last unit; nothing.
RECORD = tl.constexpr(16)


@triton.jit
def divide(
    seq_lens, skipped, starts, records, requests, steps, programs,
    KV_HEADS: tl.constexpr, BLOCK_N: tl.constexpr, WINDOW: tl.constexpr, SKIPS: tl.constexpr,
    CHUNK: tl.constexpr, PROGRAMS_PAD: tl.constexpr,
):  # fmt: skip
    """Divide a step's tiles among programs; runs as one program.

    Shapes: seq_lens, skipped [requests] in tokens (``skipped`` ones at the front belong to somebody else, a multiple of
    ``BLOCK_N``); starts [requests + 1], tiles before each request; records [programs, RECORD]. All int32. ``steps`` is the
    number of bisections that single out one of the requests.
    """
    lanes = tl.arange(0, CHUNK)
    total = 0
    for base in range(0, requests, CHUNK):
        row = base + lanes
        live = row < requests
        length = tl.load(seq_lens + row, mask=live, other=0)
        low = first_tile(length, skipped + row, live, BLOCK_N, WINDOW, SKIPS)
        tiles = tl.where(live, tl.maximum(tl.cdiv(length, BLOCK_N) - low, 1), 0)
        tl.store(starts + row, tl.cumsum(tiles, 0) - tiles + total, mask=live)
        total += tl.sum(tiles, 0)
    tl.store(starts + requests, total)
    tl.debug_barrier()

    program = tl.arange(0, PROGRAMS_PAD)
    units = total * KV_HEADS
    active = tl.minimum(units, programs)
    begin = (program.to(tl.int64) * units // tl.maximum(active, 1)).to(tl.int32)
    end = ((program + 1).to(tl.int64) * units // tl.maximum(active, 1)).to(tl.int32)
    works = program < active
    first = unit_of(tl.where(works, begin, 0), starts, requests, steps, KV_HEADS)
    last = unit_of(tl.where(works, end - 1, 0), starts, requests, steps, KV_HEADS)
    request = first // KV_HEADS
    start = tl.load(starts + request)
    tiles = tl.load(starts + request + 1) - start
    context = tl.load(seq_lens + request)
    opened = start * KV_HEADS + first % KV_HEADS * tiles
    last_start = tl.load(starts + last // KV_HEADS)
    last_tiles = tl.load(starts + last // KV_HEADS + 1) - last_start
    closed = last_start * KV_HEADS + (last % KV_HEADS + 1) * last_tiles
    there = program < programs
    at = records + program * RECORD
    tl.store(at, begin, mask=there)
    tl.store(at + 1, tl.where(works, end, begin), mask=there)
    tl.store(at + 2, first, mask=there)
    tl.store(at + 3, last, mask=there)
    tl.store(at + 4, start, mask=there)
    tl.store(at + 5, tiles, mask=there)
    tl.store(at + 6, context, mask=there)
    tl.store(at + 7, first_tile(context, skipped + request, there, BLOCK_N, WINDOW, SKIPS), mask=there)
    # The last program whose run begins at or before a tile has that tile.
    tl.store(at + 8, (((opened.to(tl.int64) + 1) * active - 1) // units).to(tl.int32), mask=there)
    tl.store(at + 9, ((closed.to(tl.int64) * active - 1) // units).to(tl.int32), mask=there)


@triton.jit
def unit_of(tile, starts, requests, steps, KV_HEADS: tl.constexpr):
    """Return the unit that each of ``tile`` belongs to, by bisection over ``starts``."""
    low = tile * 0
    high = low + requests
    for _ in range(steps):
        middle = (low + high) // 2
        before = tl.load(starts + middle) * KV_HEADS <= tile
        low = tl.where(before, middle, low)
        high = tl.where(before, high, middle)
    start = tl.load(starts + low)
    tiles = tl.load(starts + low + 1) - start
    return low * KV_HEADS + (tile - start * KV_HEADS) // tiles


@triton.jit
def first_tile(length, skipped_at, live, BLOCK_N: tl.constexpr, WINDOW: tl.constexpr, SKIPS: tl.constexpr):
    """Return the first tile of a context that a decode has to read."""
    low = length * 0
    if WINDOW > 0:
        low = tl.maximum(length - WINDOW, 0) // BLOCK_N
    if SKIPS:
        low = tl.load(skipped_at, mask=live, other=0) // BLOCK_N
    return low


@triton.jit
def decode(
    q, kv, out, partial, tops, sums, counters, records, starts, seq_lens, skipped, table, sinks,
    shared, shared_tops, shared_sums,
    scale, soft_cap, k_scale, v_scale,
    table_stride, q_token, kv_half, kv_block, kv_head_stride, kv_token,
    HEADS: tl.constexpr, G: tl.constexpr, G_PAD: tl.constexpr, D: tl.constexpr, D_PAD: tl.constexpr,
    BLOCK_SIZE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, PIECES: tl.constexpr,
    WINDOW: tl.constexpr, SOFT_CAP: tl.constexpr, SINKS: tl.constexpr, SHARED_SPLITS: tl.constexpr,
    PRECISION: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Attend one program's tiles.

    Shapes: q [requests, HEADS, D] with ``q_token`` between requests; out [requests, HEADS, D] contiguous; kv [2, blocks, kv
    heads, BLOCK_SIZE, D]; partial [2 * programs, G, D], tops and sums [2 * programs, G] in float32; counters [units] int32,
    zero before and after; records, starts as ``divide`` left them; table [requests, table_stride].
    With ``SHARED_SPLITS``, tokens below ``skipped`` were attended to already: shared [requests, HEADS, SHARED_SPLITS, D],
    shared_tops and shared_sums [requests, HEADS, SHARED_SPLITS].
    """
    program = tl.program_id(0)
    record = records + program * RECORD
    begin = tl.load(record)
    end = tl.load(record + 1)
    unit = tl.load(record + 2)
    last_unit = tl.load(record + 3)
    start = tl.load(record + 4)
    tiles = tl.load(record + 5)
    context = tl.load(record + 6)
    low = tl.load(record + 7)
    first_owner = tl.load(record + 8)
    last_owner = tl.load(record + 9)
    if begin >= end:
        return
    KV_HEADS: tl.constexpr = HEADS // G  # noqa: N806
    kind: tl.constexpr = q.dtype.element_ty
    rows = tl.arange(0, BLOCK_M)
    live = rows < G
    dims = tl.arange(0, D_PAD)
    in_head = dims < D
    columns = tl.arange(0, BLOCK_N)
    if PDL:
        # Keys and values of earlier steps are there; those of this step are on their way to the same lines.
        key_at = (low + begin - start * KV_HEADS - unit % KV_HEADS * tiles) * BLOCK_N + columns
        block = tl.load(table + (unit // KV_HEADS).to(tl.int64) * table_stride + key_at // BLOCK_SIZE,
                        mask=key_at < context, other=0)  # fmt: skip
        lines = kv + block.to(tl.int64) * kv_block + unit % KV_HEADS * kv_head_stride + key_at % BLOCK_SIZE * kv_token
        prefetch(lines, D * kv.dtype.element_ty.primitive_bitwidth // 8, BLOCK_N)
        prefetch(lines + kv_half, D * kv.dtype.element_ty.primitive_bitwidth // 8, BLOCK_N)
    if SHARED_SPLITS == 0:
        # Behind ``attend_shared``, which waited itself, all but its results is there already.
        dependent.wait(PDL)
    dependent.release(PDL)

    while unit <= last_unit:
        request = unit // KV_HEADS
        kv_head = unit % KV_HEADS
        base = start * KV_HEADS + kv_head * tiles
        opens = base >= begin
        closes = base + tiles <= end
        from_token = (low + tl.maximum(begin - base, 0)) * BLOCK_N
        to_token = tl.minimum((low + tl.minimum(end - base, tiles)) * BLOCK_N, context)
        edge = 0
        if WINDOW > 0:
            edge = tl.maximum(context - WINDOW, 0)
        shares = low > 0
        # The next unit's numbers arrive while this one's tiles are read.
        following = tl.minimum(unit + 1, last_unit) // KV_HEADS
        start = tl.load(starts + following)
        tiles = tl.load(starts + following + 1) - start
        context = tl.load(seq_lens + following)
        low = first_tile(context, skipped + following, True, BLOCK_N, WINDOW, SHARED_SPLITS > 0)

        head = kv_head * G + rows
        query = tl.load(q + request.to(tl.int64) * q_token + head[:, None] * D + dims[None, :],
                        mask=live[:, None] & in_head[None, :], other=0.0)  # fmt: skip
        query, factor = fit(query, kv, scale * k_scale, BLOCK_M)

        top = tl.full([BLOCK_M], float("-inf"), tl.float32)
        total = tl.zeros([BLOCK_M], tl.float32)
        acc = tl.zeros([BLOCK_M, D_PAD], tl.float32)
        if SINKS:
            if opens:
                top = tl.load(sinks + head, mask=live, other=0.0).to(tl.float32) * LOG2_E
                total = tl.full([BLOCK_M], 1.0, tl.float32)
        keys_at = kv + kv_head * kv_head_stride
        table_row = table + request.to(tl.int64) * table_stride
        key_at = from_token + columns
        block = tl.load(table_row + key_at // BLOCK_SIZE, mask=key_at < to_token, other=0)
        for at in tl.range(from_token, to_token, BLOCK_N):
            key_at = at + columns
            there = key_at < to_token
            if WINDOW > 0:
                # Slots before the window may hold anything, NaN included, which no weight of zero would hide.
                there = there & (key_at >= edge)
            where = block.to(tl.int64) * kv_block + (key_at % BLOCK_SIZE) * kv_token
            # One tile ahead: the addresses of what is fetched ahead must not wait for a load.
            block = tl.load(table_row + (key_at + BLOCK_N) // BLOCK_SIZE, mask=key_at + BLOCK_N < to_token, other=0)
            mask = there[:, None] & in_head[None, :]
            keys = tl.load(keys_at + where[:, None] + dims[None, :], mask=mask, other=0.0).to(query.dtype)
            values = tl.load(keys_at + kv_half + where[:, None] + dims[None, :], mask=mask, other=0.0).to(query.dtype)
            scores = tl.dot(query, tl.trans(keys), input_precision=PRECISION) * factor[:, None]
            if SOFT_CAP:
                scaled = scores / soft_cap
                scores = soft_cap * (1.0 - 2.0 / (tl.exp(2.0 * scaled) + 1.0))
            scores = tl.where(there[None, :], scores * LOG2_E, float("-inf"))
            # The first tile of a run has a token that is seen: no row keeps -inf.
            new_top = tl.maximum(top, tl.max(scores, 1))
            weights = tl.exp2(scores - new_top[:, None])
            shrink = tl.exp2(top - new_top)
            total = total * shrink + tl.sum(weights, 1)
            acc = acc * shrink[:, None] + tl.dot(weights.to(query.dtype), values, input_precision=PRECISION)
            top = new_top
        acc = acc * v_scale
        if SHARED_SPLITS > 0:
            if opens & shares:
                dependent.wait(PDL)
                for split in tl.static_range(SHARED_SPLITS):
                    row = (request.to(tl.int64) * HEADS + head) * SHARED_SPLITS + split
                    other_top = tl.load(shared_tops + row, mask=live, other=float("-inf"))
                    other = tl.load(shared + row[:, None] * D + dims[None, :],
                                    mask=live[:, None] & in_head[None, :], other=0.0)  # fmt: skip
                    new_top = tl.maximum(top, other_top)
                    shrink = tl.exp2(top - new_top)
                    grow = tl.exp2(other_top - new_top)
                    total = total * shrink + tl.load(shared_sums + row, mask=live, other=0.0) * grow
                    acc = acc * shrink[:, None] + other * grow[:, None]
                    top = new_top

        store = live[:, None] & in_head[None, :]
        target = request.to(tl.int64) * HEADS * D
        if opens & closes:
            result = acc / tl.where(total > 0, total, 1.0)[:, None]
            tl.store(out + target + head[:, None] * D + dims[None, :], result.to(kind), mask=store)
        else:
            piece = program * 2 + opens.to(tl.int32)
            tl.store(partial + (piece * G + rows[:, None]) * D + dims[None, :], acc, mask=store)
            tl.store(tops + piece * G + rows, top, mask=live)
            tl.store(sums + piece * G + rows, total, mask=live)
            first = tl.where(opens, program, first_owner)
            last = tl.where(closes, program, last_owner)
            tl.debug_barrier()
            arrived = tl.atomic_add(counters + unit, 1, sem="acq_rel", scope="gpu")
            if arrived == last - first:
                merge(partial, tops, sums, out + target + kv_head * G * D, first, last, G, G_PAD, D, D_PAD, PIECES)
                tl.store(counters + unit, 0)
        unit += 1
    if SHARED_SPLITS > 0:
        # Who waits for this kernel has to have waited for ``attend_shared``.
        dependent.wait(PDL)


@triton.jit
def merge(
    partial, tops, sums, out, first, last,
    G: tl.constexpr, G_PAD: tl.constexpr, D: tl.constexpr, D_PAD: tl.constexpr, PIECES: tl.constexpr,
):  # fmt: skip
    """Merge one unit's pieces: out[row] = sum(part * 2**(top - best)) / sum(sum * 2**(top - best))."""
    group = tl.arange(0, G_PAD)
    dims = tl.arange(0, D_PAD)
    turn = tl.arange(0, PIECES)
    best = tl.full([G_PAD], float("-inf"), tl.float32)
    total = tl.zeros([G_PAD], tl.float32)
    acc = tl.zeros([G_PAD, D_PAD], tl.float32)
    for at in range(first, last + 1, PIECES):
        program = at + turn
        # Only the first program's piece may begin its unit.
        opens = (program == first).to(tl.int32)
        row = (program * 2 + opens)[:, None] * G + group[None, :]
        there = (program <= last)[:, None] & (group < G)[None, :]
        part_tops = tl.load(tops + row, mask=there, other=float("-inf"))
        part_sums = tl.load(sums + row, mask=there, other=0.0)
        parts = tl.load(partial + row[:, :, None] * D + dims[None, None, :],
                        mask=there[:, :, None] & (dims < D)[None, None, :], other=0.0)  # fmt: skip
        new_best = tl.maximum(best, tl.max(part_tops, 0))
        safe = tl.where(new_best == float("-inf"), 0.0, new_best)
        weights = tl.exp2(part_tops - safe[None, :])
        shrink = tl.exp2(best - safe)
        total = total * shrink + tl.sum(part_sums * weights, 0)
        acc = acc * shrink[:, None] + tl.sum(parts * weights[:, :, None], 0)
        best = new_best
    result = acc / tl.where(total > 0, total, 1.0)[:, None]
    tl.store(out + group[:, None] * D + dims[None, :], result.to(out.dtype.element_ty),
             mask=(group < G)[:, None] & (dims < D)[None, :])  # fmt: skip
