"""Attention of chunks to dense keys and values: their own, which the step holds, and earlier ones gathered from the cache.

A program serves ``TOKENS`` consecutive tokens of one chunk times the ``G`` query heads of one key/value head, packed
as rows (see ``attention_kernels``). Three loops follow each other: earlier tokens, own tokens that all of the tile sees,
own tokens on the diagonal; only the last block of the first loop and those of the last have masks. Softmax is online in
base 2 (Milakov and Gimelshein 2018; FlashAttention-2, Dao 2023).
"""

from __future__ import annotations

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)


@triton.jit
def attend_dense(
    q, k, v, past_k, past_v, out, sums, query_start, tile_request, tile_token, tile_past, tile_earlier, scale,
    q_token, kv_token, past_token, out_token,
    HEADS: tl.constexpr, G: tl.constexpr, D: tl.constexpr, TOKENS: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr, PAST: tl.constexpr, SUMS: tl.constexpr, TMA: tl.constexpr,
):  # fmt: skip
    """Attend one tile.

    Shapes: q, out [T, HEADS, D] with ``q_token``, ``out_token`` between tokens; k, v [T, kv heads, D] with ``kv_token``;
    past_k, past_v [earlier, kv heads, D] with ``past_token``; with TMA these four are descriptors with blocks of
    [BLOCK_N, 1, D]. With PAST a tile's ``tile_earlier`` earlier tokens lie from ``tile_past`` on. sums [T, HEADS] float32
    takes natural log-sum-exps with SUMS.
    """
    tile, kv_head = tl.program_id(0), tl.program_id(1)
    request = tl.load(tile_request + tile)
    first = tl.load(tile_token + tile)
    begin = tl.load(query_start + request)
    length = tl.load(query_start + request + 1) - begin

    rows = tl.arange(0, BLOCK_M)
    dims = tl.arange(0, D)
    token = first + rows // G
    head = kv_head * G + rows % G
    live = (rows < TOKENS * G) & (token < length)
    row = (begin + token).to(tl.int64)
    query = tl.load(q + (row * q_token + head * D)[:, None] + dims[None, :], mask=live[:, None], other=0.0)

    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, D], tl.float32)
    factor = scale * LOG2_E
    columns = tl.arange(0, BLOCK_N)
    if PAST:
        past = tl.load(tile_past + tile)
        earlier = tl.load(tile_earlier + tile)
        whole = earlier // BLOCK_N * BLOCK_N
        for at in range(0, whole, BLOCK_N):
            keys = _load(past_k, past + at, kv_head, past_token, columns, dims, columns < BLOCK_N, D, BLOCK_N, TMA)
            scores = tl.dot(query, tl.trans(keys), input_precision="ieee")
            top, total, acc, weights = _online(scores, factor, top, total, acc)
            values = _load(past_v, past + at, kv_head, past_token, columns, dims, columns < BLOCK_N, D, BLOCK_N, TMA)
            acc = tl.dot(weights.to(query.dtype), values, acc, input_precision="ieee")
        for at in range(whole, earlier, BLOCK_N):
            there = at + columns < earlier
            keys = _load(past_k, past + at, kv_head, past_token, columns, dims, there, D, BLOCK_N, TMA)
            scores = tl.dot(query, tl.trans(keys), input_precision="ieee")
            scores = tl.where(there[None, :], scores, float("-inf"))
            top, total, acc, weights = _online(scores, factor, top, total, acc)
            values = _load(past_v, past + at, kv_head, past_token, columns, dims, there, D, BLOCK_N, TMA)
            acc = tl.dot(weights.to(query.dtype), values, acc, input_precision="ieee")
    seen_by_all = (first + 1) // BLOCK_N * BLOCK_N
    stop = tl.minimum(first + TOKENS, length)
    for at in range(0, seen_by_all, BLOCK_N):
        keys = _load(k, begin + at, kv_head, kv_token, columns, dims, columns < BLOCK_N, D, BLOCK_N, TMA)
        scores = tl.dot(query, tl.trans(keys), input_precision="ieee")
        top, total, acc, weights = _online(scores, factor, top, total, acc)
        values = _load(v, begin + at, kv_head, kv_token, columns, dims, columns < BLOCK_N, D, BLOCK_N, TMA)
        acc = tl.dot(weights.to(query.dtype), values, acc, input_precision="ieee")
    for at in range(seen_by_all, stop, BLOCK_N):
        there = at + columns < length
        keys = _load(k, begin + at, kv_head, kv_token, columns, dims, there, D, BLOCK_N, TMA)
        scores = tl.dot(query, tl.trans(keys), input_precision="ieee")
        scores = tl.where((at + columns)[None, :] <= token[:, None], scores, float("-inf"))
        top, total, acc, weights = _online(scores, factor, top, total, acc)
        values = _load(v, begin + at, kv_head, kv_token, columns, dims, there, D, BLOCK_N, TMA)
        acc = tl.dot(weights.to(query.dtype), values, acc, input_precision="ieee")

    acc = acc / total[:, None]
    target = out + (row * out_token + head * D)[:, None] + dims[None, :]
    tl.store(target, acc.to(out.dtype.element_ty), mask=live[:, None])
    if SUMS:
        tl.store(sums + row * HEADS + head, (top + tl.log2(total)) * LN_2, mask=live)


@triton.jit
def _online(scores, factor, top, total, acc):
    """Return the new maximum and sum, ``acc`` in the new scale, and the weights of ``scores``."""
    new_top = tl.maximum(top, tl.max(scores, 1) * factor)
    weights = tl.exp2(scores * factor - new_top[:, None])
    shrink = tl.exp2(top - new_top)
    return new_top, total * shrink + tl.sum(weights, 1), acc * shrink[:, None], weights


@triton.jit
def _load(x, at, kv_head, stride, columns, dims, there, D: tl.constexpr, BLOCK_N: tl.constexpr, TMA: tl.constexpr):
    """Return BLOCK_N tokens of one head from token ``at`` on."""
    if TMA:
        block = x.load([at, kv_head, 0]).reshape(BLOCK_N, D)
    else:
        where = (at + columns).to(tl.int64)[:, None] * stride + kv_head * D + dims[None, :]
        block = tl.load(x + where, mask=there[:, None], other=0.0)
    return block


@triton.jit
def merge_rows(
    out, sums, other, other_sums, out_row, sums_row, other_row, other_sums_row, other_sums_head,
    HEADS: tl.constexpr, D: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """Add to GROUP heads of a row of ``out`` the attention to other keys, by their natural log-sum-exps."""
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * GROUP + tl.arange(0, GROUP)
    dims = tl.arange(0, D)
    there = head < HEADS
    held = tl.load(sums + row * sums_row + head, mask=there, other=0.0)
    added = tl.load(other_sums + row * other_sums_row + head * other_sums_head, mask=there, other=0.0)
    weight = 1.0 / (1.0 + tl.exp(held - added))
    at = (head * D)[:, None] + dims[None, :]
    first = tl.load(out + row * out_row + at, mask=there[:, None], other=0.0).to(tl.float32)
    second = tl.load(other + row * other_row + at, mask=there[:, None], other=0.0).to(tl.float32)
    merged = first + (second - first) * weight[:, None]
    tl.store(out + row * out_row + at, merged.to(out.dtype.element_ty), mask=there[:, None])


@triton.jit
def gather_blocks(
    kv, blocks, held, k, v, k_scale, v_scale, kv_half, kv_block, kv_head, kv_token,
    KV: tl.constexpr, D: tl.constexpr, D_PAD: tl.constexpr, BLOCK_SIZE: tl.constexpr, BLOCK_PAD: tl.constexpr,
):  # fmt: skip
    """Copy one head of one block: k, v [blocks * BLOCK_SIZE, KV, D]; tokens from ``held`` on become zero."""
    index, head = tl.program_id(0), tl.program_id(1)
    block = tl.load(blocks + index).to(tl.int64)
    count = tl.load(held + index)
    offset, dims = tl.arange(0, BLOCK_PAD), tl.arange(0, D_PAD)
    source = block * kv_block + head * kv_head + offset[:, None] * kv_token + dims[None, :]
    token = index.to(tl.int64) * BLOCK_SIZE + offset
    target = (token * KV + head)[:, None] * D + dims[None, :]
    inside = (offset < BLOCK_SIZE)[:, None] & (dims < D)[None, :]
    there = inside & (offset < count)[:, None]
    keys = tl.load(kv + source, mask=there, other=0.0).to(tl.float32) * k_scale
    values = tl.load(kv + kv_half + source, mask=there, other=0.0).to(tl.float32) * v_scale
    tl.store(k + target, keys.to(k.dtype.element_ty), mask=inside)
    tl.store(v + target, values.to(v.dtype.element_ty), mask=inside)


@triton.jit
def gather_slots(
    kv, slots, k, v, tokens, k_scale, v_scale, kv_half, kv_block, kv_head, kv_token,
    KV: tl.constexpr, D: tl.constexpr, D_PAD: tl.constexpr, BLOCK_SIZE: tl.constexpr, TOKENS: tl.constexpr,
):  # fmt: skip
    """Copy one head of TOKENS tokens: k, v [tokens, KV, D]; those without a slot become zero."""
    token, head = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS), tl.program_id(1)
    inside = token < tokens
    slot = tl.load(slots + token, mask=inside, other=-1).to(tl.int64)
    dims = tl.arange(0, D_PAD)
    source = ((slot // BLOCK_SIZE) * kv_block + head * kv_head + (slot % BLOCK_SIZE) * kv_token)[:, None] + dims[
        None, :
    ]
    target = (token.to(tl.int64) * KV + head)[:, None] * D + dims[None, :]
    wanted = inside[:, None] & (dims < D)[None, :]
    there = wanted & (slot >= 0)[:, None]
    keys = tl.load(kv + source, mask=there, other=0.0).to(tl.float32) * k_scale
    values = tl.load(kv + kv_half + source, mask=there, other=0.0).to(tl.float32) * v_scale
    tl.store(k + target, keys.to(k.dtype.element_ty), mask=wanted)
    tl.store(v + target, values.to(v.dtype.element_ty), mask=wanted)
