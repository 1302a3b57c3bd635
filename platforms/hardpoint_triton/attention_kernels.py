"""Paged attention of chunks in Triton, and the write to the cache.

A program serves a tile: up to ``BLOCK_M / G`` consecutive tokens of one request times the ``G`` query heads of one
key/value head, packed as rows, so that keys and values are read once for all of them. Softmax is online in base 2 (Milakov
and Gimelshein 2018; FlashAttention-2, Dao 2023).
"""

from __future__ import annotations

import triton
import triton.language as tl

from hardpoint_triton.rope_kernels import fit_cache

LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit(do_not_specialize=["table_stride"])
def attend(
    q, kv, out, table, seq_lens, query_start, tile_request, tile_token, sinks,
    scale, soft_cap, k_scale, v_scale,
    table_stride, q_token, kv_half, kv_block, kv_head_stride, kv_token,
    HEADS: tl.constexpr, G: tl.constexpr, D: tl.constexpr, D_PAD: tl.constexpr,
    BLOCK_SIZE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    WINDOW: tl.constexpr, SOFT_CAP: tl.constexpr, SINKS: tl.constexpr,
):  # fmt: skip
    """Attend one tile to its context.

    Shapes: q [T, HEADS, D] with ``q_token`` between tokens; out [T, HEADS, D]; kv [2, blocks, kv heads, BLOCK_SIZE, D];
    table [requests, table_stride]; tile_request, tile_token [tiles].
    """
    tile, kv_head = tl.program_id(0), tl.program_id(1)
    request = tl.load(tile_request + tile)
    if request < 0:
        return
    first = tl.load(tile_token + tile)
    begin = tl.load(query_start + request)
    length = tl.load(query_start + request + 1) - begin
    context = tl.load(seq_lens + request)

    rows = tl.arange(0, BLOCK_M)
    token = first + rows // G
    head = kv_head * G + rows % G
    live = (rows < (BLOCK_M // G) * G) & (token < length)
    position = context - length + token
    dims = tl.arange(0, D_PAD)
    in_head = dims < D
    at_token = (begin + token).to(tl.int64)
    held = live[:, None] & in_head[None, :]
    query = tl.load(q + (at_token * q_token + head * D)[:, None] + dims[None, :], mask=held, other=0.0)
    query, factor = fit(query, kv, scale * k_scale, BLOCK_M)

    last = tl.minimum(first + BLOCK_M // G, length) - 1
    high = context - length + last + 1
    low = 0
    edge = 0
    if WINDOW > 0:
        edge = tl.maximum(context - length + first - WINDOW + 1, 0)
        low = (edge // BLOCK_N) * BLOCK_N

    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    if SINKS:
        top = tl.load(sinks + head, mask=live, other=0.0).to(tl.float32) * LOG2_E
        total = tl.full([BLOCK_M], 1.0, tl.float32)
    acc = tl.zeros([BLOCK_M, D_PAD], tl.float32)
    columns = tl.arange(0, BLOCK_N)
    table_row = table + request.to(tl.int64) * table_stride
    block = tl.load(table_row + (low + columns) // BLOCK_SIZE, mask=low + columns < high, other=0)
    for at in range(low, high, BLOCK_N):
        key_at = at + columns
        # Slots before the window may hold anything, NaN included, which no weight of zero would hide.
        there = (key_at < high) & (key_at >= edge)
        where = block.to(tl.int64) * kv_block + kv_head * kv_head_stride + (key_at % BLOCK_SIZE) * kv_token
        # One tile ahead: the addresses of what is fetched ahead must not wait for a load.
        block = tl.load(table_row + (key_at + BLOCK_N) // BLOCK_SIZE, mask=key_at + BLOCK_N < high, other=0)
        mask = there[:, None] & in_head[None, :]
        keys = tl.load(kv + where[:, None] + dims[None, :], mask=mask, other=0.0).to(query.dtype)
        scores = tl.dot(query, tl.trans(keys), input_precision="ieee") * factor[:, None]
        if SOFT_CAP:
            scaled = scores / soft_cap
            scores = soft_cap * (1.0 - 2.0 / (tl.exp(2.0 * scaled) + 1.0))
        seen = there[None, :] & (key_at[None, :] <= position[:, None])
        if WINDOW > 0:
            seen = seen & (key_at[None, :] > position[:, None] - WINDOW)
        scores = tl.where(seen, scores * LOG2_E, float("-inf"))
        new_top = tl.maximum(top, tl.max(scores, 1))
        # A row that saw nothing yet keeps -inf; subtracting it from itself would make NaN.
        safe = tl.where(new_top == float("-inf"), 0.0, new_top)
        weights = tl.exp2(scores - safe[:, None])
        shrink = tl.exp2(top - safe)
        total = total * shrink + tl.sum(weights, 1)
        values = tl.load(kv + kv_half + where[:, None] + dims[None, :], mask=mask, other=0.0).to(query.dtype)
        acc = acc * shrink[:, None] + tl.dot(weights.to(query.dtype), values, input_precision="ieee")
        top = new_top

    acc = acc * (v_scale / tl.where(total > 0, total, 1.0))[:, None]
    row_at = at_token * HEADS + head
    tl.store(out + row_at[:, None] * D + dims[None, :], acc.to(out.dtype.element_ty), mask=held)


@triton.jit
def fit(query, kv, scale, BLOCK_M: tl.constexpr):
    """Return queries in the type of the products and what scores of each row are to be multiplied with.

    8-bit elements are exact in float16; queries fit into it after division by their row's largest element.
    """
    factor = tl.full([BLOCK_M], 1.0, tl.float32) * scale
    if kv.dtype.element_ty.primitive_bitwidth == 8:
        wide = query.to(tl.float32)
        largest = tl.maximum(tl.max(tl.abs(wide), 1), 1e-30)
        return (wide / largest[:, None]).to(tl.float16), largest * factor
    else:
        return query, factor


@triton.jit
def write(
    k, v, kv, slots, kv_half, kv_block, kv_head_stride, kv_token, k_token, v_token,
    inverse_k_scale, inverse_v_scale,
    HEADS: tl.constexpr, D: tl.constexpr, D_PAD: tl.constexpr, BLOCK_SIZE: tl.constexpr,
):  # fmt: skip
    """Store one token's keys and values: k, v [T, HEADS, D] with strides ``k_token``, ``v_token`` between tokens."""
    token = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots + token).to(tl.int64)
    if slot < 0:
        return
    block, offset = slot // BLOCK_SIZE, slot % BLOCK_SIZE
    dims = tl.arange(0, D_PAD)
    in_head = dims < D
    for head in range(HEADS):
        where = block * kv_block + head * kv_head_stride + offset * kv_token + dims
        key = tl.load(k + token * k_token + head * D + dims, mask=in_head)
        value = tl.load(v + token * v_token + head * D + dims, mask=in_head)
        tl.store(kv + where, fit_cache(key, kv, inverse_k_scale), mask=in_head)
        tl.store(kv + kv_half + where, fit_cache(value, kv, inverse_v_scale), mask=in_head)
