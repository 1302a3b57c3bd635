"""Experts for few tokens: every chosen expert's rows stream through vector products, without sorting anything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
import triton
import triton.language as tl

from hardpoint_triton import dependent
from hardpoint_triton.moe_expert_kernels import ACTIVATIONS, Experts, activate, ascending, gate_up_rows


@dataclass(frozen=True, slots=True)
class Stream:
    """One program's share: rows (of all of a token's experts together for ``down``), elements per step, threads / 32."""

    rows: int
    block: int
    warps: int


GATE_UP: Final = Stream(rows=4, block=512, warps=4)
DOWN: Final = Stream(rows=64, block=128, warps=4)
DOWN_OF_ONE: Final = Stream(rows=64, block=256, warps=8)
#: Programs that it takes to keep every multiprocessor's memory requests in flight.
LEAST_PROGRAMS: Final = 256
#: Rows of the router per program.
ROUTER_ROWS: Final = 2


@triton.jit
def _route(x, norm_weight, router, router_bias, normed, logits, x_stride, eps, offset, HIDDEN: tl.constexpr,
           PADDED: tl.constexpr, EXPERTS: tl.constexpr, NORM: tl.constexpr, WIDE: tl.constexpr, BIAS: tl.constexpr,
           ROWS: tl.constexpr, PDL: tl.constexpr):  # fmt: skip
    """Norm one token, and multiply it by some of the router's rows."""
    token = tl.program_id(0).to(tl.int64)
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, PADDED)
    inside = column < HIDDEN
    weight = tl.load(
        router + row[:, None] * HIDDEN + column[None, :], mask=(row < EXPERTS)[:, None] & inside[None, :], other=0.0
    )
    if NORM:
        factor = tl.load(norm_weight + column, mask=inside, other=0.0).to(tl.float32) + offset
    dependent.release(PDL)
    dependent.wait(PDL)
    value = tl.load(x + token * x_stride + column, mask=inside, other=0.0)
    if NORM:
        wide = value.to(tl.float32)
        wide = wide * tl.rsqrt(tl.sum(wide * wide, 0) / HIDDEN + eps)
        if not WIDE:
            wide = wide.to(value.dtype).to(tl.float32)
        value = (wide * factor).to(value.dtype)
        if tl.program_id(1) == 0:
            tl.store(normed + token * HIDDEN + column, value, mask=inside)
    result = tl.sum(weight.to(tl.float32) * value.to(tl.float32)[None, :], 1)
    if BIAS:
        result += tl.load(router_bias + row, mask=row < EXPERTS, other=0.0).to(tl.float32)
    tl.store(logits + token * EXPERTS + row, result.to(value.dtype), mask=row < EXPERTS)


@triton.jit
def _gate_up(x, ids, weight, scale, bias, out, x_stride, first, experts, alpha, limit, K: tl.constexpr,
             HIDDEN: tl.constexpr, INNER: tl.constexpr, ACTIVATION: tl.constexpr, SCALED: tl.constexpr,
             BIAS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr):  # fmt: skip
    """Make some of one pair's inner values."""
    pair = tl.program_id(0)
    # In this order, so that whatever told which experts to run is done before any program of the next kernel starts.
    dependent.wait(PDL)
    dependent.release(PDL)
    expert = tl.load(ids + pair).to(tl.int64) - first
    if (expert < 0) | (expert >= experts):
        return
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    live = row < INNER
    gate_row, up_row = gate_up_rows(row, INNER, ACTIVATION)
    at = tl.arange(0, BLOCK)
    source = x + (pair // K).to(tl.int64) * x_stride
    base = weight + expert * (2 * INNER * HIDDEN)
    gate = tl.zeros((ROWS, BLOCK), tl.float32)
    up = tl.zeros((ROWS, BLOCK), tl.float32)
    for start in range(0, HIDDEN, BLOCK):
        column = start + at
        inside = column < HIDDEN
        there = live[:, None] & inside[None, :]
        g = tl.load(base + gate_row[:, None] * HIDDEN + column[None, :], mask=there, other=0.0)
        u = tl.load(base + up_row[:, None] * HIDDEN + column[None, :], mask=there, other=0.0)
        value = tl.load(source + column, mask=inside, other=0.0).to(tl.float32)[None, :]
        gate += g.to(tl.float32) * value
        up += u.to(tl.float32) * value
    g, u = tl.sum(gate, 1), tl.sum(up, 1)
    if SCALED:
        g *= tl.load(scale + expert * (2 * INNER) + gate_row, mask=live, other=0.0)
        u *= tl.load(scale + expert * (2 * INNER) + up_row, mask=live, other=0.0)
    if BIAS:
        g += tl.load(bias + expert * (2 * INNER) + gate_row, mask=live, other=0.0).to(tl.float32)
        u += tl.load(bias + expert * (2 * INNER) + up_row, mask=live, other=0.0).to(tl.float32)
    result = activate(g, u, alpha, limit, ACTIVATION)
    tl.store(out + pair.to(tl.int64) * INNER + row, result.to(out.dtype.element_ty), mask=live)


@triton.jit
def _down(inner, weights, ids, weight, scale, bias, residual, out, residual_stride, first, experts, K: tl.constexpr,
          K_PAD: tl.constexpr, HIDDEN: tl.constexpr, INNER: tl.constexpr, SCALED: tl.constexpr, BIAS: tl.constexpr,
          RESIDUAL: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr):  # fmt: skip
    """Make some of one token's output: the sum runs over its experts in ascending order.

    What says which experts to run may be read before waiting: see :func:`_gate_up`. So may the first weights.
    """
    dependent.release(PDL)
    token = tl.program_id(0).to(tl.int64)
    slot = tl.arange(0, K_PAD)
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    live = row < HIDDEN
    expert = tl.load(ids + token * K + slot, mask=slot < K, other=-1).to(tl.int64) - first
    share = tl.load(weights + token * K + slot, mask=slot < K, other=0.0).to(tl.float32)
    here = (slot < K) & (expert >= 0) & (expert < experts)
    share = tl.where(here, share, 0.0)
    at = tl.arange(0, BLOCK)
    line = (weight + expert * (HIDDEN * INNER))[:, None] + row[None, :] * INNER
    wanted = (here[:, None] & live[None, :])[:, :, None]
    w = tl.load(line[:, :, None] + at[None, None, :], mask=wanted & (at < INNER)[None, None, :], other=0.0)
    dependent.wait(PDL)
    part = tl.zeros((K_PAD, ROWS), tl.float32)
    for start in range(0, INNER, BLOCK):
        column = start + at
        inside = here[:, None] & (column < INNER)[None, :]
        a = tl.load(inner + (token * K + slot)[:, None] * INNER + column[None, :], mask=inside, other=0.0)
        column += BLOCK
        # The next weights are on their way while these are used.
        after = tl.load(
            line[:, :, None] + column[None, None, :], mask=wanted & (column < INNER)[None, None, :], other=0.0
        )
        part += tl.sum(w.to(tl.float32) * a.to(tl.float32)[:, None, :], 2)
        w = after
    place = ascending(expert, slot)
    there = here[:, None] & live[None, :]
    if SCALED:
        part *= tl.load(scale + expert[:, None] * HIDDEN + row[None, :], mask=there, other=0.0)
    if BIAS:
        part += tl.load(bias + expert[:, None] * HIDDEN + row[None, :], mask=there, other=0.0).to(tl.float32)
    part *= share[:, None]
    result = tl.zeros((ROWS,), tl.float32)
    for index in tl.static_range(K_PAD):
        result += tl.sum(tl.where((place == index)[:, None] & here[:, None], part, 0.0), 0)
    if RESIDUAL:
        result += tl.load(residual + token * residual_stride + row, mask=live, other=0.0).to(tl.float32)
    tl.store(out + token * HIDDEN + row, result.to(out.dtype.element_ty), mask=live)


def norm_and_score(
    x: torch.Tensor,
    router: torch.Tensor,
    router_bias: torch.Tensor | None,
    norm_weight: torch.Tensor | None,
    eps: float,
    offset: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return normed tokens and their logits; see ``hardpoint.ops.moe.routed_moe``. ``x`` may have gaps between rows."""
    (tokens, hidden), count = x.shape, router.shape[0]
    normed = x if norm_weight is None else torch.empty((tokens, hidden), dtype=x.dtype, device=x.device)
    logits = torch.empty((tokens, count), dtype=x.dtype, device=x.device)
    _route[(tokens, triton.cdiv(count, ROUTER_ROWS))](
        x, x if norm_weight is None else norm_weight, router, router if router_bias is None else router_bias, normed,
        logits, x.stride(0), eps, offset, HIDDEN=hidden, PADDED=triton.next_power_of_2(hidden), EXPERTS=count,
        NORM=norm_weight is not None, WIDE=norm_weight is not None and (bool(offset) or norm_weight.dtype != x.dtype),
        BIAS=router_bias is not None, ROWS=ROUTER_ROWS, num_warps=4, **dependent.keywords(x.device),
    )  # fmt: skip
    return normed, logits


def stream_experts(
    x: torch.Tensor, weights: torch.Tensor, ids: torch.Tensor, experts: Experts, residual: torch.Tensor | None
) -> torch.Tensor:
    """See ``hardpoint.ops.moe.moe``; every tensor contiguous but for the rows of ``x`` and ``residual``."""
    (tokens, hidden), k, pdl = x.shape, ids.shape[1], dependent.keywords(x.device)
    count, inner = experts.gate_up.shape[0], experts.gate_up.shape[1] // 2
    middle = torch.empty((tokens * k, inner), dtype=x.dtype, device=x.device)
    out = torch.empty((tokens, hidden), dtype=x.dtype, device=x.device)
    weight, scale, bias = experts.gate_up, experts.gate_up_scale, experts.gate_up_bias
    _gate_up[(tokens * k, triton.cdiv(inner, GATE_UP.rows))](
        x, ids, weight, weight if scale is None else scale, weight if bias is None else bias, middle, x.stride(0),
        experts.first, count, experts.alpha, experts.limit, K=k, HIDDEN=hidden, INNER=inner,
        ACTIVATION=ACTIVATIONS[experts.activation], SCALED=scale is not None, BIAS=bias is not None, ROWS=GATE_UP.rows,
        BLOCK=min(GATE_UP.block, triton.next_power_of_2(hidden)), num_warps=GATE_UP.warps, **pdl,
    )  # fmt: skip
    k_padded, way = triton.next_power_of_2(k), DOWN_OF_ONE if tokens == 1 else DOWN
    weight, scale, bias = experts.down, experts.down_scale, experts.down_bias
    rows = max(1, way.rows // k_padded)
    while rows > 1 and tokens * triton.cdiv(hidden, rows) < LEAST_PROGRAMS:
        rows //= 2
    _down[(tokens, triton.cdiv(hidden, rows))](
        middle, weights, ids, weight, weight if scale is None else scale, weight if bias is None else bias,
        out if residual is None else residual, out, 0 if residual is None else residual.stride(0), experts.first, count,
        K=k, K_PAD=k_padded, HIDDEN=hidden, INNER=inner, SCALED=scale is not None, BIAS=bias is not None,
        RESIDUAL=residual is not None, ROWS=rows, BLOCK=min(way.block, triton.next_power_of_2(inner)),
        num_warps=way.warps, **pdl,
    )  # fmt: skip
    return out
