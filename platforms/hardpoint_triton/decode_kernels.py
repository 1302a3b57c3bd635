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
from hardpoint_triton.attention_kernels import LOG2_E
from hardpoint_triton.stream_kernels import prefetch

#: int32 numbers per program: first tile, end tile, first unit, last unit; of the first unit's request: tiles before it,
#: tiles, context, first tile; the first program of the first unit, the last program of the last unit; nothing.
RECORD = tl.constexpr(16)


@triton.jit(do_not_specialize=["requests", "steps", "programs"])
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


@triton.jit(do_not_specialize=["table_stride"])
def decode(
    q, kv, out, partial, tops, sums, counters, records, starts, seq_lens, skipped, table, sinks,
    scale, soft_cap, k_scale, v_scale,
    table_stride, q_token, kv_half, kv_block, kv_head_stride, kv_token,
    HEADS: tl.constexpr, G: tl.constexpr, G_PAD: tl.constexpr, D: tl.constexpr, D_PAD: tl.constexpr,
    BLOCK_SIZE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, PIECES: tl.constexpr,
    WINDOW: tl.constexpr, SOFT_CAP: tl.constexpr, SINKS: tl.constexpr, NARROW: tl.constexpr, ASM: tl.constexpr,
    JOIN: tl.constexpr, SHARED: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Attend one program's tiles.

    Shapes: q [requests, HEADS, D] with ``q_token`` between requests; out [requests, HEADS, D] contiguous; kv [2, blocks, kv
    heads, BLOCK_SIZE, D]; partial [2 * programs + units, G, D], tops and sums [2 * programs + units, G] in float32;
    counters [units] int32, zero before and after; records, starts as ``divide`` left them; table [requests, table_stride].

    ``NARROW`` is 1 for a cache of float8_e4m3fn, 2 for float8_e5m2: kv is then int16 [..., D / 2], and so are its strides.
    ``JOIN`` is 0 if the last program of a unit merges its pieces, 1 if ``join`` does, 2 if ``join`` does and also takes
    units that one program has. With ``SHARED``, tokens below ``skipped`` are left to ``cascade_kernels.attend_shared``.
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
    # A lane is one element of a head, or two neighbours.
    WIDTH: tl.constexpr = 2 if NARROW else 1  # noqa: N806
    ROW_BYTES: tl.constexpr = D // WIDTH * kv.dtype.element_ty.primitive_bitwidth // 8  # noqa: N806
    kind: tl.constexpr = tl.float16 if NARROW else q.dtype.element_ty
    rows = tl.arange(0, BLOCK_M)
    live = rows < G
    lanes = tl.arange(0, D_PAD // WIDTH)
    in_head = lanes < D // WIDTH
    dims = lanes * WIDTH
    held = live[:, None] & in_head[None, :]
    columns = tl.arange(0, BLOCK_N)
    if PDL:
        # Keys and values of earlier steps are there; those of this step are on their way to the same lines.
        key_at = (low + begin - start * KV_HEADS - unit % KV_HEADS * tiles) * BLOCK_N + columns
        block = tl.load(table + (unit // KV_HEADS).to(tl.int64) * table_stride + key_at // BLOCK_SIZE,
                        mask=key_at < context, other=0)  # fmt: skip
        lines = kv + block.to(tl.int64) * kv_block + unit % KV_HEADS * kv_head_stride + key_at % BLOCK_SIZE * kv_token
        prefetch(lines, ROW_BYTES, BLOCK_N)
        prefetch(lines + kv_half, ROW_BYTES, BLOCK_N)
    if not SHARED:
        # ``attend_shared`` waited itself before it let this kernel start, and none of its results is read here.
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
        # The next unit's numbers arrive while this one's tiles are read.
        following = tl.minimum(unit + 1, last_unit) // KV_HEADS
        start = tl.load(starts + following)
        tiles = tl.load(starts + following + 1) - start
        context = tl.load(seq_lens + following)
        low = first_tile(context, skipped + following, True, BLOCK_N, WINDOW, SHARED)

        head = kv_head * G + rows
        query_at = q + request.to(tl.int64) * q_token + head[:, None] * D + dims[None, :]
        query = tl.load(query_at, mask=held, other=0.0)
        factor = tl.full([BLOCK_M], 1.0, tl.float32) * (scale * k_scale)
        if NARROW:
            # 8-bit elements are exact in float16; queries fit into it after division by their row's largest element.
            odd_query = tl.load(query_at + 1, mask=held, other=0.0).to(tl.float32)
            query = query.to(tl.float32)
            largest = tl.maximum(tl.maximum(tl.max(tl.abs(query), 1), tl.max(tl.abs(odd_query), 1)), 1e-30)
            query = (query / largest[:, None]).to(kind)
            odd_query = (odd_query / largest[:, None]).to(kind)
            factor = factor * largest

        top = tl.full([BLOCK_M], float("-inf"), tl.float32)
        total = tl.zeros([BLOCK_M], tl.float32)
        acc = tl.zeros([BLOCK_M, D_PAD // WIDTH], tl.float32)
        if NARROW:
            odd_acc = tl.zeros([BLOCK_M, D_PAD // WIDTH], tl.float32)
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
            keys = tl.load(keys_at + where[:, None] + lanes[None, :], mask=mask, other=0)
            values = tl.load(keys_at + kv_half + where[:, None] + lanes[None, :], mask=mask, other=0)
            if NARROW:
                even, odd = unpack(keys, NARROW, ASM)
                scores = tl.dot(query, tl.trans(even))
                scores = tl.dot(odd_query, tl.trans(odd), scores) * factor[:, None]
            else:
                scores = tl.dot(query, tl.trans(keys.to(kind)), input_precision="ieee") * factor[:, None]
            if SOFT_CAP:
                scaled = scores / soft_cap
                scores = soft_cap * (1.0 - 2.0 / (tl.exp(2.0 * scaled) + 1.0))
            scores = tl.where(there[None, :], scores * LOG2_E, float("-inf"))
            # The first tile of a run has a token that is seen: no row keeps -inf.
            new_top = tl.maximum(top, tl.max(scores, 1))
            weights = tl.exp2(scores - new_top[:, None])
            shrink = tl.exp2(top - new_top)
            total = total * shrink + tl.sum(weights, 1)
            weights = weights.to(kind)
            if NARROW:
                even, odd = unpack(values, NARROW, ASM)
                acc = acc * shrink[:, None] + tl.dot(weights, even)
                odd_acc = odd_acc * shrink[:, None] + tl.dot(weights, odd)
            else:
                acc = acc * shrink[:, None] + tl.dot(weights, values.to(kind), input_precision="ieee")
            top = new_top

        target = (request.to(tl.int64) * HEADS + kv_head * G) * D
        whole = opens & closes
        if whole & (JOIN != 2):
            share = (v_scale / tl.where(total > 0, total, 1.0))[:, None]
            result_at = out + target + rows[:, None] * D + dims[None, :]
            tl.store(result_at, (acc * share).to(out.dtype.element_ty), mask=held)
            if NARROW:
                tl.store(result_at + 1, (odd_acc * share).to(out.dtype.element_ty), mask=held)
        else:
            piece = tl.where(whole, 2 * tl.num_programs(0) + unit, program * 2 + opens.to(tl.int32))
            part_at = partial + (piece * G + rows[:, None]) * D + dims[None, :]
            tl.store(part_at, acc * v_scale, mask=held)
            if NARROW:
                tl.store(part_at + 1, odd_acc * v_scale, mask=held)
            tl.store(tops + piece * G + rows, top, mask=live)
            tl.store(sums + piece * G + rows, total, mask=live)
            if JOIN == 0:
                first = tl.where(opens, program, first_owner)
                last = tl.where(closes, program, last_owner)
                tl.debug_barrier()
                arrived = tl.atomic_add(counters + unit, 1, sem="acq_rel", scope="gpu")
                if arrived == last - first:
                    merge(partial, tops, sums, out + target, first, last, G, G_PAD, D, D_PAD, PIECES)
                    tl.store(counters + unit, 0)
        unit += 1
    if SHARED:
        # Who waits for this kernel has to have waited for ``attend_shared``.
        dependent.wait(PDL)


@triton.jit
def unpack(pairs, NARROW: tl.constexpr, ASM: tl.constexpr):
    """Return the first and the second of each pair of 8-bit numbers, in float16.

    In registers of two pairs, so that what a product needs transposed is transposed in units of 16 bits.
    """
    if NARROW == 1 and ASM:
        even, odd = tl.inline_asm_elementwise(
            "{ .reg .b16 low, high; .reg .b32 sorted; prmt.b32 sorted, $2, 0, 0x3120; mov.b32 {low, high}, sorted;"
            " cvt.rn.f16x2.e4m3x2 $0, low; cvt.rn.f16x2.e4m3x2 $1, high; }",
            "=r,=r,r", [pairs], dtype=(tl.float16, tl.float16), is_pure=True, pack=2,
        )  # fmt: skip
        return even, odd
    elif NARROW == 1:
        # The exponent's bias is 8 less than in float16.
        return small(pairs & 0xFF) * 256.0, small((pairs >> 8) & 0xFF) * 256.0
    else:
        return (pairs << 8).to(tl.float16, bitcast=True), (pairs & -256).to(tl.float16, bitcast=True)


@triton.jit
def small(number):
    """Return float8_e4m3fn numbers, given as int16, divided by 256 in float16."""
    return (((number & 0x80) << 8) | ((number & 0x7F) << 7)).to(tl.int16).to(tl.float16, bitcast=True)


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


@triton.jit(do_not_specialize=["requests", "programs"])
def join(
    partial, tops, sums, shared, shared_tops, shared_sums, out, starts, skipped, requests, programs,
    HEADS: tl.constexpr, G: tl.constexpr, D: tl.constexpr, D_PAD: tl.constexpr, PIECES: tl.constexpr,
    SHARED_SPLITS: tl.constexpr, SPLITS_PAD: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Merge the pieces of one request and head, and with ``SHARED_SPLITS`` what it shares with others.

    Shapes: shared [requests, HEADS, SHARED_SPLITS, D], shared_tops and shared_sums [requests, HEADS, SHARED_SPLITS] in
    float32; all others as in ``decode``.
    """
    request, head = tl.program_id(0), tl.program_id(1)
    KV_HEADS: tl.constexpr = HEADS // G  # noqa: N806
    unit = request * KV_HEADS + head // G
    start = tl.load(starts + request)
    tiles = tl.load(starts + request + 1) - start
    units = tl.load(starts + requests).to(tl.int64) * KV_HEADS
    active = tl.minimum(units, programs)
    base = (start * KV_HEADS + head // G * tiles).to(tl.int64)
    first = (((base + 1) * active - 1) // units).to(tl.int32)
    last = (((base + tiles) * active - 1) // units).to(tl.int32)
    shares = 0
    if SHARED_SPLITS > 0:
        shares = tl.load(skipped + request)
    dependent.release(PDL)
    dependent.wait(PDL)
    if (first == last) & (SHARED_SPLITS == 0):
        return
    dims = tl.arange(0, D_PAD)
    in_head = dims < D
    turn = tl.arange(0, PIECES)
    best = float("-inf")
    total = 0.0
    acc = tl.zeros([D_PAD], tl.float32)
    for at in range(first, last + 1, PIECES):
        program = at + turn
        piece = tl.where(first == last, 2 * programs + unit, program * 2 + (program == first).to(tl.int32))
        at_piece = piece * G + head % G
        best, total, acc = gather(partial, tops, sums, at_piece, program <= last, dims, in_head, best, total, acc, D)
    if SHARED_SPLITS > 0:
        if shares > 0:
            split = tl.arange(0, SPLITS_PAD)
            at_split = (request.to(tl.int64) * HEADS + head) * SHARED_SPLITS + split
            best, total, acc = gather(
                shared, shared_tops, shared_sums, at_split, split < SHARED_SPLITS, dims, in_head, best, total, acc, D
            )
    result = acc / tl.where(total > 0, total, 1.0)
    tl.store(out + (request.to(tl.int64) * HEADS + head) * D + dims, result.to(out.dtype.element_ty), mask=in_head)


@triton.jit
def gather(partial, tops, sums, row, there, dims, in_head, best, total, acc, D: tl.constexpr):
    """Add the pieces at ``row`` to (best, total, acc), in their order."""
    part_tops = tl.load(tops + row, mask=there, other=float("-inf"))
    part_sums = tl.load(sums + row, mask=there, other=0.0)
    parts = tl.load(partial + row[:, None] * D + dims[None, :], mask=there[:, None] & in_head[None, :], other=0.0)
    new_best = tl.maximum(best, tl.max(part_tops, 0))
    safe = tl.where(new_best == float("-inf"), 0.0, new_best)
    weights = tl.exp2(part_tops - safe)
    shrink = tl.exp2(best - safe)
    total = total * shrink + tl.sum(part_sums * weights, 0)
    return new_best, total, acc * shrink + tl.sum(parts * weights[:, None], 0)
