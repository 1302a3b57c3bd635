"""Splitting the fused projection, norm per head and rotation in one launch: one program a token and head."""

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit
def _norm_rope(qkv, q_out, k_out, v_out, q_weight, k_weight, positions, cos_sin, qkv_stride, table_stride, eps, offset,
               HEADS: tl.constexpr, KV: tl.constexpr, D: tl.constexpr, HALF: tl.constexpr, HALF_PAD: tl.constexpr,
               D_PAD: tl.constexpr, NORM: tl.constexpr, WIDE: tl.constexpr, ROPE: tl.constexpr,
               PAIRED: tl.constexpr):  # fmt: skip
    token, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    source = qkv + token * qkv_stride + head * D
    at = tl.arange(0, D_PAD)
    there = at < D
    if head >= HEADS + KV:
        values = tl.load(source + at, mask=there)
        tl.store(v_out + (token * KV + head - HEADS - KV) * D + at, values, mask=there)
        return
    target = q_out + (token * HEADS + head) * D
    weight = q_weight
    if head >= HEADS:
        target = k_out + (token * KV + head - HEADS) * D
        weight = k_weight
    kind = qkv.dtype.element_ty
    scale = 1.0
    if NORM:
        wide = tl.load(source + at, mask=there, other=0.0).to(tl.float32)
        scale = tl.rsqrt(tl.sum(wide * wide, 0) / D + eps)
    if ROPE:
        pair = tl.arange(0, HALF_PAD)
        live = pair < HALF
        first_at = pair * 2 if PAIRED else pair
        second_at = pair * 2 + 1 if PAIRED else pair + HALF
        first = tl.load(source + first_at, mask=live, other=0.0)
        second = tl.load(source + second_at, mask=live, other=0.0)
        if NORM:
            first = _weigh(first, scale, weight, first_at, live, offset, WIDE)
            second = _weigh(second, scale, weight, second_at, live, offset, WIDE)
        row = tl.load(positions + token) * table_stride
        cos = tl.load(cos_sin + row + pair, mask=live, other=0.0).to(kind).to(tl.float32)
        sin = tl.load(cos_sin + row + HALF + pair, mask=live, other=0.0).to(kind).to(tl.float32)
        a, b = first.to(tl.float32), second.to(tl.float32)
        tl.store(target + first_at, (a * cos - b * sin).to(kind), mask=live)
        tl.store(target + second_at, (b * cos + a * sin).to(kind), mask=live)
        there = there & (at >= 2 * HALF)
    values = tl.load(source + at, mask=there, other=0.0)
    if NORM:
        values = _weigh(values, scale, weight, at, there, offset, WIDE)
    tl.store(target + at, values.to(kind), mask=there)


@triton.jit
def _weigh(values, scale, weight, at, there, offset, WIDE: tl.constexpr):
    factor = tl.load(weight + at, mask=there, other=0.0)
    normed = values.to(tl.float32) * scale
    if WIDE:
        return (normed * (factor.to(tl.float32) + offset)).to(values.dtype)
    return (normed.to(values.dtype).to(tl.float32) * factor.to(tl.float32)).to(values.dtype)


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
    tokens = qkv.shape[0]
    q = qkv.new_empty((tokens, num_heads, head_size))
    k, v = (qkv.new_empty((tokens, num_kv_heads, head_size)) for _ in range(2))
    if tokens == 0:
        return q, k, v
    half = cos_sin.shape[1] // 2 if cos_sin is not None else 0
    table = qkv if cos_sin is None else cos_sin
    norm = q_weight is not None and k_weight is not None
    _norm_rope[(tokens, num_heads + 2 * num_kv_heads)](
        qkv, q, k, v, q_weight if norm else qkv, k_weight if norm else qkv, positions, table,
        qkv.stride(0), table.stride(0), eps, offset,
        HEADS=num_heads, KV=num_kv_heads, D=head_size, HALF=half, HALF_PAD=triton.next_power_of_2(max(1, half)),
        D_PAD=triton.next_power_of_2(head_size), NORM=norm,
        WIDE=bool(offset) or (q_weight is not None and q_weight.dtype != qkv.dtype), ROPE=cos_sin is not None,
        PAIRED=interleaved, num_warps=1,
    )  # fmt: skip
    return q, k, v
