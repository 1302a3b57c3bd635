"""Causal attention of chunks over their own keys and values, which the step holds densely: no cache is read.

A program serves ``BLOCK_M / G`` consecutive tokens of one chunk times the ``G`` query heads of one key/value head, packed
as rows (see ``attention_kernels``). Blocks of keys that all of a tile sees take a loop without masks; those on the
diagonal follow. Softmax is online in base 2.
"""

from __future__ import annotations

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)


@triton.jit
def attend_own(
    q, k, v, out, sums, query_start, tile_request, tile_token, scale,
    q_token, kv_token, out_token,
    HEADS: tl.constexpr, G: tl.constexpr, D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    SUMS: tl.constexpr, TMA: tl.constexpr, PRECISION: tl.constexpr = "tf32",
):  # fmt: skip
    """Attend one tile.

    Shapes: q, out [T, HEADS, D] with strides ``q_token``, ``out_token`` between tokens; k, v [T, kv heads, D] with
    ``kv_token`` (descriptors of such tensors with blocks of [BLOCK_N, 1, D] with TMA); sums [T, HEADS] float32, the
    natural log-sum-exp of scaled scores, written with SUMS.
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
    live = (rows < (BLOCK_M // G) * G) & (token < length)
    row = (begin + token).to(tl.int64)
    query = tl.load(q + (row * q_token + head * D)[:, None] + dims[None, :], mask=live[:, None], other=0.0)

    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, D], tl.float32)
    factor = scale * LOG2_E
    columns = tl.arange(0, BLOCK_N)
    seen_by_all = (first + 1) // BLOCK_N * BLOCK_N
    stop = tl.minimum(first + BLOCK_M // G, length)
    for at in range(0, seen_by_all, BLOCK_N):
        keys, values = _load(k, v, begin + at, kv_head, kv_token, columns, dims, columns < BLOCK_N, D, BLOCK_N, TMA)
        scores = tl.dot(query, tl.trans(keys), input_precision=PRECISION)
        new_top = tl.maximum(top, tl.max(scores, 1) * factor)
        weights = tl.exp2(scores * factor - new_top[:, None])
        shrink = tl.exp2(top - new_top)
        total = total * shrink + tl.sum(weights, 1)
        acc = acc * shrink[:, None]
        acc = tl.dot(weights.to(query.dtype), values, acc, input_precision=PRECISION)
        top = new_top
    for at in range(seen_by_all, stop, BLOCK_N):
        there = at + columns < length
        keys, values = _load(k, v, begin + at, kv_head, kv_token, columns, dims, there, D, BLOCK_N, TMA)
        scores = tl.dot(query, tl.trans(keys), input_precision=PRECISION) * factor
        scores = tl.where((at + columns)[None, :] <= token[:, None], scores, float("-inf"))
        new_top = tl.maximum(top, tl.max(scores, 1))
        weights = tl.exp2(scores - new_top[:, None])
        shrink = tl.exp2(top - new_top)
        total = total * shrink + tl.sum(weights, 1)
        acc = acc * shrink[:, None]
        acc = tl.dot(weights.to(query.dtype), values, acc, input_precision=PRECISION)
        top = new_top

    acc = acc / total[:, None]
    tl.store(
        out + (row * out_token + head * D)[:, None] + dims[None, :], acc.to(out.dtype.element_ty), mask=live[:, None]
    )
    if SUMS:
        tl.store(sums + row * HEADS + head, (top + tl.log2(total)) * LN_2, mask=live)


@triton.jit
def _load(k, v, at, kv_head, kv_token, columns, dims, there, D: tl.constexpr, BLOCK_N: tl.constexpr, TMA: tl.constexpr):
    """Return BLOCK_N keys and values from token ``at`` on."""
    if TMA:
        keys = k.load([at, kv_head, 0]).reshape(BLOCK_N, D)
        values = v.load([at, kv_head, 0]).reshape(BLOCK_N, D)
    else:
        where = (at + columns).to(tl.int64)[:, None] * kv_token + kv_head * D + dims[None, :]
        keys = tl.load(k + where, mask=there[:, None], other=0.0)
        values = tl.load(v + where, mask=there[:, None], other=0.0)
    return keys, values
