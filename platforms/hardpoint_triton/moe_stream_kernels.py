"""Experts for few tokens: every chosen expert's rows stream through vector products, without sorting anything."""

from __future__ import annotations

from typing import Final

import torch
import triton
import triton.language as tl

from hardpoint_triton import dependent

ACTIVATIONS: Final = {"silu": 0, "gelu_tanh": 1, "swiglu_oai": 2}


@triton.jit
def activate(gate, up, alpha, limit, ACTIVATION: tl.constexpr):
    """Return the gated activation of float32 ``gate`` and ``up``."""
    if ACTIVATION == 0:
        result = gate / (1.0 + tl.exp(-gate)) * up
    elif ACTIVATION == 1:
        inner = 0.7978845608028654 * (gate + 0.044715 * gate * gate * gate)
        result = gate * (1.0 - 1.0 / (tl.exp(2.0 * inner) + 1.0)) * up
    else:
        gate = tl.minimum(gate, limit)
        up = tl.minimum(tl.maximum(up, -limit), limit)
        result = (up + 1.0) * gate / (1.0 + tl.exp(-alpha * gate))
    return result


@triton.jit
def gate_up_rows(row, inner, ACTIVATION: tl.constexpr):
    """Return the rows of the gate and of the up projection that make rows ``row`` of the inner size."""
    if ACTIVATION == 2:
        gate, up = 2 * row, 2 * row + 1
    else:
        gate, up = row, inner + row
    return gate, up


@triton.jit
def ascending(expert, slot):
    """Return each choice's place in the ascending order of experts, in which a token's sum runs."""
    before = expert[None, :] < expert[:, None]
    before = before | ((expert[None, :] == expert[:, None]) & (slot[None, :] < slot[:, None]))
    return tl.sum(before.to(tl.int32), 1)


@triton.jit
def _gate_up(x, ids, weight, bias, out, x_stride, first, experts, alpha, limit, K: tl.constexpr, HIDDEN: tl.constexpr,
             INNER: tl.constexpr, ACTIVATION: tl.constexpr, BIAS: tl.constexpr, ROWS: tl.constexpr,
             BLOCK: tl.constexpr, PDL: tl.constexpr):  # fmt: skip
    dependent.wait(PDL)
    dependent.release(PDL)
    pair = tl.program_id(0)
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
    if BIAS:
        g += tl.load(bias + expert * (2 * INNER) + gate_row, mask=live, other=0.0).to(tl.float32)
        u += tl.load(bias + expert * (2 * INNER) + up_row, mask=live, other=0.0).to(tl.float32)
    result = activate(g, u, alpha, limit, ACTIVATION)
    tl.store(out + pair.to(tl.int64) * INNER + row, result.to(out.dtype.element_ty), mask=live)


@triton.jit
def _down(inner, weights, ids, weight, bias, residual, out, residual_stride, first, experts, K: tl.constexpr,
          K_PAD: tl.constexpr, HIDDEN: tl.constexpr, INNER: tl.constexpr, BIAS: tl.constexpr, RESIDUAL: tl.constexpr,
          ROWS: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr):  # fmt: skip
    dependent.wait(PDL)
    dependent.release(PDL)
    token = tl.program_id(0).to(tl.int64)
    slot = tl.arange(0, K_PAD)
    expert = tl.load(ids + token * K + slot, mask=slot < K, other=-1).to(tl.int64) - first
    here = (slot < K) & (expert >= 0) & (expert < experts)
    share = tl.load(weights + token * K + slot, mask=here, other=0.0).to(tl.float32)
    rank = ascending(expert, slot)
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    live = row < HIDDEN
    at = tl.arange(0, BLOCK)
    total = tl.zeros((K_PAD, ROWS, BLOCK), tl.float32)
    base = weight + expert * (HIDDEN * INNER)
    for start in range(0, INNER, BLOCK):
        column = start + at
        inside = here[:, None] & (column < INNER)[None, :]
        w = tl.load(
            base[:, None, None] + row[None, :, None] * INNER + column[None, None, :],
            mask=inside[:, None, :] & live[None, :, None],
            other=0.0,
        )
        a = tl.load(inner + (token * K + slot)[:, None] * INNER + column[None, :], mask=inside, other=0.0)
        total += w.to(tl.float32) * a.to(tl.float32)[:, None, :]
    part = tl.sum(total, 2)
    if BIAS:
        there = here[:, None] & live[None, :]
        part += tl.load(bias + expert[:, None] * HIDDEN + row[None, :], mask=there, other=0.0).to(tl.float32)
    part *= share[:, None]
    result = tl.zeros((ROWS,), tl.float32)
    for index in tl.static_range(K_PAD):
        result += tl.sum(tl.where((rank == index)[:, None] & here[:, None], part, 0.0), 0)
    if RESIDUAL:
        result += tl.load(residual + token * residual_stride + row, mask=live, other=0.0).to(tl.float32)
    tl.store(out + token * HIDDEN + row, result.to(out.dtype.element_ty), mask=live)


def stream_experts(
    x: torch.Tensor,
    weights: torch.Tensor,
    ids: torch.Tensor,
    gate_up: torch.Tensor,
    down: torch.Tensor,
    activation: str,
    gate_up_bias: torch.Tensor | None,
    down_bias: torch.Tensor | None,
    alpha: float,
    limit: float,
    first_expert: int,
    residual: torch.Tensor | None,
) -> torch.Tensor:
    """See ``hardpoint.ops.moe.moe``; every tensor contiguous but for the rows of ``x`` and ``residual``."""
    (tokens, hidden), k = x.shape, ids.shape[1]
    experts, inner = gate_up.shape[0], gate_up.shape[1] // 2
    pdl = dependent.keywords(x.device)
    middle = torch.empty((tokens * k, inner), dtype=x.dtype, device=x.device)
    out = torch.empty((tokens, hidden), dtype=x.dtype, device=x.device)
    rows, block = 8, min(512, triton.next_power_of_2(hidden))
    _gate_up[(tokens * k, triton.cdiv(inner, rows))](
        x, ids, gate_up, gate_up if gate_up_bias is None else gate_up_bias, middle, x.stride(0), first_expert, experts,
        alpha, limit, K=k, HIDDEN=hidden, INNER=inner, ACTIVATION=ACTIVATIONS[activation],
        BIAS=gate_up_bias is not None, ROWS=rows, BLOCK=block, num_warps=4, **pdl,
    )  # fmt: skip
    padded = triton.next_power_of_2(k)
    rows, block = max(1, 32 // padded), min(256, triton.next_power_of_2(inner))
    _down[(tokens, triton.cdiv(hidden, rows))](
        middle, weights, ids, down, down if down_bias is None else down_bias, out if residual is None else residual,
        out, 0 if residual is None else residual.stride(0), first_expert, experts, K=k, K_PAD=padded, HIDDEN=hidden,
        INNER=inner, BIAS=down_bias is not None, RESIDUAL=residual is not None, ROWS=rows, BLOCK=block, num_warps=4, **pdl,
    )  # fmt: skip
    return out
