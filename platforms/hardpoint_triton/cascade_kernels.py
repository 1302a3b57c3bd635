"""Attention of many decoding requests to the tokens that they share, read once for all of them.

Requests that begin with the same blocks form a group. The queries of a group that belong to one key/value head are the
rows of one product with the group's shared keys (Hydragen, Juravsky et al. 2024; cascade inference, Ye et al. 2024). The
result is one partial result a row and split, which ``decode_kernels.decode`` merges with what follows the shared tokens.
"""

from __future__ import annotations

import triton
import triton.language as tl

from hardpoint_triton import dependent
from hardpoint_triton.attention_kernels import LOG2_E, fit

#: int32 numbers per tile: first member, members, a request with the group's blocks, shared tokens.
TILE = tl.constexpr(4)


@triton.jit(do_not_specialize=["table_stride"])
def attend_shared(
    q, kv, shared, tops, sums, tiles, members, table,
    scale, soft_cap, k_scale, v_scale,
    table_stride, q_token, kv_half, kv_block, kv_head_stride, kv_token,
    HEADS: tl.constexpr, G: tl.constexpr, D: tl.constexpr, D_PAD: tl.constexpr, BLOCK_SIZE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, PARTS: tl.constexpr, SPLITS: tl.constexpr,
    SOFT_CAP: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Attend up to ``BLOCK_M // G`` members of one tile, the ``part``-th such, to one split of what they share.

    Shapes: q [requests, HEADS, D] with ``q_token`` between requests; kv [2, blocks, kv heads, BLOCK_SIZE, D]; shared
    [requests, HEADS, SPLITS, D], tops and sums [requests, HEADS, SPLITS] in float32; tiles [n, TILE], members [m] int32;
    table [requests, table_stride]. Shared tokens are a multiple of ``BLOCK_N``.
    """
    tile, part, kv_head, split = tl.program_id(0) // PARTS, tl.program_id(0) % PARTS, tl.program_id(1), tl.program_id(2)
    dependent.wait(PDL)
    dependent.release(PDL)
    first = tl.load(tiles + tile * TILE) + part * (BLOCK_M // G)
    count = tl.load(tiles + tile * TILE + 1) - part * (BLOCK_M // G)
    leader = tl.load(tiles + tile * TILE + 2)
    length = tl.load(tiles + tile * TILE + 3)
    if count <= 0:
        return
    rows = tl.arange(0, BLOCK_M)
    live = (rows < (BLOCK_M // G) * G) & (rows // G < count)
    member = tl.load(members + first + rows // G, mask=live, other=0).to(tl.int64)
    head = kv_head * G + rows % G
    dims = tl.arange(0, D_PAD)
    in_head = dims < D
    held = live[:, None] & in_head[None, :]
    query = tl.load(q + member[:, None] * q_token + head[:, None] * D + dims[None, :], mask=held, other=0.0)
    query, factor = fit(query, kv, scale * k_scale, BLOCK_M)
    if not SOFT_CAP:
        factor = factor * LOG2_E

    span = tl.cdiv(tl.cdiv(length, SPLITS), BLOCK_N) * BLOCK_N
    start = split * span
    stop = tl.minimum(start + span, length)
    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, D_PAD], tl.float32)
    columns = tl.arange(0, BLOCK_N)
    table_row = table + leader.to(tl.int64) * table_stride
    keys_at = kv + kv_head * kv_head_stride
    block = tl.load(table_row + (start + columns) // BLOCK_SIZE, mask=start + columns < stop, other=0)
    for at in tl.range(start, stop, BLOCK_N):
        key_at = at + columns
        where = (block.to(tl.int64) * kv_block + (key_at % BLOCK_SIZE) * kv_token)[:, None] + dims[None, :]
        # One tile ahead: the addresses of what is fetched ahead must not wait for a load.
        block = tl.load(table_row + (key_at + BLOCK_N) // BLOCK_SIZE, mask=key_at + BLOCK_N < stop, other=0)
        if D == D_PAD:
            keys = tl.load(keys_at + where).to(query.dtype)
            values = tl.load(keys_at + kv_half + where).to(query.dtype)
        else:
            keys = tl.load(keys_at + where, mask=in_head[None, :], other=0.0).to(query.dtype)
            values = tl.load(keys_at + kv_half + where, mask=in_head[None, :], other=0.0).to(query.dtype)
        scores = tl.dot(query, tl.trans(keys), input_precision="ieee") * factor[:, None]
        if SOFT_CAP:
            scaled = scores / soft_cap
            scores = soft_cap * (1.0 - 2.0 / (tl.exp(2.0 * scaled) + 1.0)) * LOG2_E
        new_top = tl.maximum(top, tl.max(scores, 1))
        weights = tl.exp2(scores - new_top[:, None])
        shrink = tl.exp2(top - new_top)
        total = total * shrink + tl.sum(weights, 1)
        acc = acc * shrink[:, None]
        acc = tl.dot(weights.to(query.dtype), values, acc, input_precision="ieee")
        top = new_top
    acc = acc * v_scale
    at = (member * HEADS + head) * SPLITS + split
    tl.store(shared + at[:, None] * D + dims[None, :], acc, mask=held)
    tl.store(tops + at, top, mask=live)
    tl.store(sums + at, total, mask=live)
