"""Norm per head, rotation and the write to the paged cache, in one pass over the fused projection.

A program serves ``GROUP`` heads of one token as a tile, queries, keys and values alike: a row of values is copied where a
row of queries or keys is normed and rotated. Each element is read once and each result written once.
"""

from __future__ import annotations

from typing import Final

import torch
import triton
import triton.language as tl

from hardpoint.contract.attention import HeadRotation
from hardpoint_triton import dependent

#: Largest finite values of float8_e4m3fn and float8_e5m2; PyTorch and Triton's interpreter make NaN of more.
E4M3_MAX = tl.constexpr(448.0)
E5M2_MAX = tl.constexpr(57344.0)
#: Up to so many tokens, programs are small so that one token's heads spread over many multiprocessors.
FEW_TOKENS: Final = 64
FEW_HEADS: Final = 4
MANY_HEADS: Final = 16


@triton.jit
def norm_rope(
    qkv, out, q_weight, k_weight, positions, cos_sin, slots, kv,
    qkv_stride, out_stride, k_more, k_shift, v_shift, table_stride, kv_half, kv_block, kv_head, kv_token, eps, offset, inverse_k_scale, inverse_v_scale,
    HEADS: tl.constexpr, KV: tl.constexpr, D: tl.constexpr, HALF: tl.constexpr, HALF_PAD: tl.constexpr,
    REST_PAD: tl.constexpr, GROUP: tl.constexpr, BLOCK_SIZE: tl.constexpr, NORM: tl.constexpr, WIDE: tl.constexpr,
    PAIRED: tl.constexpr, WRITE: tl.constexpr, VALUES: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Serve ``GROUP`` of a token's heads: HEADS queries, KV keys, KV values, in the projection's order.

    ``out`` takes queries and keys in that order, and values with VALUES; it may be ``qkv``. Keys and values are off by
    ``k_shift`` elements and ``k_more`` per token from where that order has them in rows of ``out_stride``, values by
    ``v_shift`` more.
    """
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * GROUP + tl.arange(0, GROUP)
    live = head < HEADS + 2 * KV
    is_query, is_value = head < HEADS, head >= HEADS + KV
    dependent.wait(PDL)
    dependent.release(PDL)
    source = qkv + token * qkv_stride + head * D
    # Products rather than a choice of addresses, which would hide from the compiler how they are aligned.
    beyond = (head >= HEADS).to(tl.int64)
    half = is_value.to(tl.int64)
    inverse_scale = tl.where(is_value, inverse_v_scale, inverse_k_scale)
    target = out + token * out_stride + head * D + beyond * (k_shift + token * k_more) + half * v_shift
    moved = live & (head < HEADS + (2 * KV if VALUES else KV))
    cached = live & (head >= HEADS)
    cell = kv
    if WRITE:
        slot = tl.load(slots + token).to(tl.int64)
        cached = live & (head >= tl.where(slot >= 0, HEADS, HEADS + 2 * KV))
        cell = kv + (slot // BLOCK_SIZE) * kv_block + (slot % BLOCK_SIZE) * kv_token + half * kv_half
        cell = cell + (head - HEADS - half * KV) * kv_head

    if HALF > 0:
        pair = tl.arange(0, HALF_PAD)
        first_at = pair * 2 if PAIRED else pair
        second_at = pair * 2 + 1 if PAIRED else pair + HALF
        there = live[:, None] & (pair < HALF)[None, :]
        first = tl.load(source[:, None] + first_at[None, :], mask=there, other=0.0)
        second = tl.load(source[:, None] + second_at[None, :], mask=there, other=0.0)
    if REST_PAD > 0:
        rest_at = 2 * HALF + tl.arange(0, REST_PAD)
        left = live[:, None] & (rest_at < D)[None, :]
        rest = tl.load(source[:, None] + rest_at[None, :], mask=left, other=0.0)
    if NORM:
        squares = tl.zeros([GROUP], tl.float32)
        if HALF > 0:
            squares += tl.sum(first.to(tl.float32) * first.to(tl.float32), 1)
            squares += tl.sum(second.to(tl.float32) * second.to(tl.float32), 1)
        if REST_PAD > 0:
            squares += tl.sum(rest.to(tl.float32) * rest.to(tl.float32), 1)
        scale = tl.rsqrt(squares / D + eps)
    if HALF > 0:
        a, b = first, second
        if NORM:
            a = _weigh(first, scale, q_weight, k_weight, first_at, pair < HALF, is_query, offset, WIDE)
            b = _weigh(second, scale, q_weight, k_weight, second_at, pair < HALF, is_query, offset, WIDE)
        row = cos_sin + tl.load(positions + token) * table_stride
        cos = tl.load(row + pair, mask=pair < HALF, other=0.0).to(first.dtype).to(tl.float32)[None, :]
        sin = tl.load(row + HALF + pair, mask=pair < HALF, other=0.0).to(first.dtype).to(tl.float32)[None, :]
        a, b = a.to(tl.float32), b.to(tl.float32)
        turned = (a * cos - b * sin).to(first.dtype)
        first = tl.where(is_value[:, None], first, turned)
        turned = (b * cos + a * sin).to(first.dtype)
        second = tl.where(is_value[:, None], second, turned)
        there = moved[:, None] & (pair < HALF)[None, :]
        tl.store(target[:, None] + first_at[None, :], first, mask=there)
        tl.store(target[:, None] + second_at[None, :], second, mask=there)
        if WRITE:
            there = cached[:, None] & (pair < HALF)[None, :]
            tl.store(cell[:, None] + first_at[None, :], fit_cache(first, kv, inverse_scale[:, None]), mask=there)
            tl.store(cell[:, None] + second_at[None, :], fit_cache(second, kv, inverse_scale[:, None]), mask=there)
    if REST_PAD > 0:
        if NORM:
            normed = _weigh(rest, scale, q_weight, k_weight, rest_at, rest_at < D, is_query, offset, WIDE)
            rest = tl.where(is_value[:, None], rest, normed)
        tl.store(target[:, None] + rest_at[None, :], rest, mask=moved[:, None] & (rest_at < D)[None, :])
        if WRITE:
            left = cached[:, None] & (rest_at < D)[None, :]
            tl.store(cell[:, None] + rest_at[None, :], fit_cache(rest, kv, inverse_scale[:, None]), mask=left)


@triton.jit
def _weigh(values, scale, q_weight, k_weight, at, there, is_query, offset, WIDE: tl.constexpr):
    """Return values [GROUP, n] times scale [GROUP] and the weights at ``at`` [n]."""
    of_query = tl.load(q_weight + at, mask=there, other=0.0).to(tl.float32)
    of_key = tl.load(k_weight + at, mask=there, other=0.0).to(tl.float32)
    factor = tl.where(is_query[:, None], of_query[None, :], of_key[None, :])
    normed = values.to(tl.float32) * scale[:, None]
    if WIDE:
        return (normed * (factor + offset)).to(values.dtype)
    return (normed.to(values.dtype).to(tl.float32) * factor).to(values.dtype)


@triton.jit
def fit_cache(values, kv, inverse_scale):
    """Return values in the cache's type, divided by its scale and kept in range where it is an 8-bit type."""
    if kv.dtype.element_ty.primitive_bitwidth == 8:
        most = E4M3_MAX if kv.dtype.element_ty == tl.float8e4nv else E5M2_MAX
        scaled = values.to(tl.float32) * inverse_scale
        return tl.minimum(tl.maximum(scaled, -most), most).to(kv.dtype.element_ty)
    return values.to(kv.dtype.element_ty)


def norm_rope_write(
    qkv: torch.Tensor,
    rotation: HeadRotation,
    num_heads: int,
    num_kv_heads: int,
    head_size: int,
    positions: torch.Tensor,
    slots: torch.Tensor,
    kv: torch.Tensor,
    scales: tuple[float, float] = (1.0, 1.0),
    *,
    dense: bool = False,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Norm and rotate a fused projection and store its keys and values.

    Args:
        qkv: [T, (num_heads + 2 * num_kv_heads) * head_size], rows of any stride.
        rotation: norms (both or none) and rotation.
        positions: int64[T].
        slots: int64[T], ``block * block_size + offset``; negative ones are not stored.
        kv: [2, blocks, num_kv_heads, block_size, head_size], keys first; the last axis contiguous.
        scales: what stored keys and values of an 8-bit cache are multiplied with when they are read.
        dense: return contiguous tensors rather than overwrite queries and keys.

    Returns:
        ``(q, k, v)``, [T, heads, head_size]: contiguous with ``dense``, else views of ``qkv``.
    """
    parts = [num_heads, num_kv_heads, num_kv_heads]
    if dense:
        flat = qkv.new_empty(qkv.shape[0] * sum(parts) * head_size)
        q, k, v = (
            part.view(-1, heads, head_size)
            for part, heads in zip(flat.split([qkv.shape[0] * n * head_size for n in parts]), parts, strict=True)
        )
    else:
        q, k, v = torch.split(qkv.unflatten(1, (sum(parts), head_size)), parts, 1)
    _launch(qkv, q, k, v, rotation, positions, slots, kv, scales)
    return q, k, v


def qk_norm_rope(
    qkv: torch.Tensor,
    num_heads: int,
    num_kv_heads: int,
    head_size: int,
    q_weight: torch.Tensor | None,
    k_weight: torch.Tensor | None,
    eps: float,
    offset: float,
    positions: torch.Tensor,
    cos_sin: torch.Tensor | None,
    interleaved: bool = False,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """See ``hardpoint.ops.rotary.qk_norm_rope``; one of the two norms alone is not offered by any model."""
    out = qkv.new_empty((qkv.shape[0], num_heads + num_kv_heads, head_size))
    q, k = out[:, :num_heads], out[:, num_heads:]
    v = qkv.unflatten(1, (num_heads + 2 * num_kv_heads, head_size))[:, num_heads + num_kv_heads :]
    rotation = HeadRotation(
        q_weight=q_weight, k_weight=k_weight, eps=eps, offset=offset, cos_sin=cos_sin, interleaved=interleaved
    )
    _launch(qkv, q, k, None, rotation, positions, None, None, (1.0, 1.0))
    return q, k, v


def _launch(
    qkv: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor | None,
    rotation: HeadRotation,
    positions: torch.Tensor,
    slots: torch.Tensor | None,
    kv: torch.Tensor | None,
    scales: tuple[float, float],
) -> None:
    """Fill ``q``, ``k`` and ``v``, which are parts of one tensor; values stay where ``v`` is ``None`` or in place."""
    (tokens, num_heads, head_size), num_kv_heads = q.shape, k.shape[1]
    if tokens == 0:
        return
    element = q.element_size()
    k_shift = (k.data_ptr() - q.data_ptr()) // element - num_heads * head_size
    moves = v is not None and v.data_ptr() != qkv.data_ptr() + (num_heads + num_kv_heads) * head_size * element
    v_shift = (v.data_ptr() - k.data_ptr()) // element - num_kv_heads * head_size if v is not None and moves else 0
    table, weight = rotation.cos_sin, rotation.q_weight
    norm = weight is not None and rotation.k_weight is not None
    half = 0 if table is None else table.shape[1] // 2
    rest = head_size - 2 * half
    group = FEW_HEADS if tokens <= FEW_TOKENS else MANY_HEADS
    norm_rope[(tokens, triton.cdiv(num_heads + 2 * num_kv_heads, group))](
        qkv, q, weight if norm else qkv, rotation.k_weight if norm else qkv, positions,
        qkv if table is None else table, positions if slots is None else slots, qkv if kv is None else kv,
        qkv.stride(0), q.stride(0), k.stride(0) - q.stride(0), k_shift, v_shift, 0 if table is None else table.stride(0),
        *((0, 0, 0, 0) if kv is None else kv.stride()[:4]), rotation.eps, rotation.offset, 1.0 / scales[0],
        1.0 / scales[1],
        HEADS=num_heads, KV=num_kv_heads, D=head_size, HALF=half, HALF_PAD=triton.next_power_of_2(max(1, half)),
        REST_PAD=triton.next_power_of_2(rest) if rest else 0, GROUP=group,
        BLOCK_SIZE=1 if kv is None else kv.shape[3], NORM=norm,
        WIDE=bool(rotation.offset) or (weight is not None and weight.dtype != qkv.dtype),
        PAIRED=rotation.interleaved, WRITE=kv is not None, VALUES=moves,
        num_warps=1 if group == FEW_HEADS else 4, **dependent.keywords(qkv.device),
    )  # fmt: skip
