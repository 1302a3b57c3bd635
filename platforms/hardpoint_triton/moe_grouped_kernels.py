"""Experts for many tokens: pairs sorted by expert, one matrix product per tile of an expert's pairs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from hardpoint_triton import dependent
from hardpoint_triton.launch import stages
from hardpoint_triton.moe_expert_kernels import ACTIVATIONS, Experts, activate, ascending, gate_up_rows
from hardpoint_triton.moe_routing_kernels import SortedPairs
from hardpoint_triton.quantize import quantize


@dataclass(frozen=True, slots=True)
class Tile:
    """One program's share of a grouped product.

    Attributes:
        pairs, rows, depth: pairs, weight rows (of each of gate and up) and input elements per step.
        warps, stages: threads / 32, and steps in flight.
        group: tiles of pairs that share their weights in the L2 cache.
    """

    pairs: int
    rows: int
    depth: int
    warps: int
    stages: int
    group: int = 8


@dataclass(frozen=True, slots=True)
class Tiles:
    """Tiles of both products; they share the number of pairs."""

    gate_up: Tile
    down: Tile


@triton.jit
def _place(tiles, columns, GROUP: tl.constexpr):
    """Return the tile of pairs and of rows of this program: ``GROUP`` tiles of pairs, then the next rows."""
    program = tl.program_id(0)
    group = program // (GROUP * columns)
    inside = program % (GROUP * columns)
    size = tl.minimum(tiles - group * GROUP, GROUP)
    return group * GROUP + inside % size, inside // size


@triton.jit
def _multiply(a, b, total):
    """Return ``total + a @ b``. Hopper sums 8-bit products in fewer bits than 32: each step's sum joins a float32 one."""
    if a.dtype.is_fp8():
        total = tl.dot(a, b, total, max_num_imprecise_acc=a.shape[1])
    else:
        total = tl.dot(a, b, total, input_precision="ieee")
    return total


@triton.jit(do_not_specialize=["tiles"])
def _gate_up(x, x_scale, weight, scale, bias, out, order, tile_expert, tile_start, tile_stop, tiles, x_stride, alpha, limit,
             K: tl.constexpr, HIDDEN: tl.constexpr, INNER: tl.constexpr, ACTIVATION: tl.constexpr, SCALED: tl.constexpr,
             BIAS: tl.constexpr, PAIRS: tl.constexpr, ROWS: tl.constexpr, DEPTH: tl.constexpr, GROUP: tl.constexpr,
             PDL: tl.constexpr):  # fmt: skip
    dependent.wait(PDL)
    dependent.release(PDL)
    tile, column = _place(tiles, tl.cdiv(INNER, ROWS), GROUP)
    expert = tl.load(tile_expert + tile).to(tl.int64)
    if expert < 0:
        return
    place = tl.load(tile_start + tile) + tl.arange(0, PAIRS)
    stop = tl.load(tile_stop + tile)
    row = column * ROWS + tl.arange(0, ROWS)
    live, fits = place < stop, row < INNER
    # Pairs and rows past the last read what the last one reads, and are not stored.
    token = (tl.load(order + tl.minimum(place, stop - 1)) // K).to(tl.int64)
    gate_row, up_row = gate_up_rows(tl.minimum(row, INNER - 1), INNER, ACTIVATION)
    depth = tl.arange(0, DEPTH)
    base = weight + expert * (2 * INNER * HIDDEN)
    gate_at = base + gate_row[:, None] * HIDDEN + depth[None, :]
    up_at = base + up_row[:, None] * HIDDEN + depth[None, :]
    x_at = x + token[None, :] * x_stride + depth[:, None]
    gate = tl.zeros((ROWS, PAIRS), tl.float32)
    up = tl.zeros((ROWS, PAIRS), tl.float32)
    for start in range(0, HIDDEN, DEPTH):
        if HIDDEN % DEPTH == 0:
            g, u = tl.load(gate_at), tl.load(up_at)
            v = tl.load(x_at)
        else:
            inside = start + depth < HIDDEN
            g, u = tl.load(gate_at, mask=inside[None, :], other=0.0), tl.load(up_at, mask=inside[None, :], other=0.0)
            v = tl.load(x_at, mask=inside[:, None], other=0.0)
        gate, up = _multiply(g, v, gate), _multiply(u, v, up)
        gate_at += DEPTH
        up_at += DEPTH
        x_at += DEPTH
    if SCALED:
        at = scale + expert * (2 * INNER)
        token_scale = tl.load(x_scale + token)[None, :]
        gate *= tl.load(at + gate_row)[:, None] * token_scale
        up *= tl.load(at + up_row)[:, None] * token_scale
    if BIAS:
        at = bias + expert * (2 * INNER)
        gate += tl.load(at + gate_row, mask=fits, other=0.0).to(tl.float32)[:, None]
        up += tl.load(at + up_row, mask=fits, other=0.0).to(tl.float32)[:, None]
    result = tl.trans(activate(gate, up, alpha, limit, ACTIVATION).to(out.dtype.element_ty))
    tl.store(out + place.to(tl.int64)[:, None] * INNER + row[None, :], result, mask=live[:, None] & fits[None, :])


@triton.jit(do_not_specialize=["tiles"])
def _down(inner, inner_scale, weight, scale, bias, out, order, tile_expert, tile_start, tile_stop, tiles, HIDDEN: tl.constexpr,
          INNER: tl.constexpr, SCALED: tl.constexpr, BIAS: tl.constexpr, PAIRS: tl.constexpr, ROWS: tl.constexpr, DEPTH: tl.constexpr,
          GROUP: tl.constexpr, PDL: tl.constexpr):  # fmt: skip
    dependent.wait(PDL)
    dependent.release(PDL)
    tile, column = _place(tiles, tl.cdiv(HIDDEN, ROWS), GROUP)
    expert = tl.load(tile_expert + tile).to(tl.int64)
    if expert < 0:
        return
    place = tl.load(tile_start + tile) + tl.arange(0, PAIRS)
    stop = tl.load(tile_stop + tile)
    row = column * ROWS + tl.arange(0, ROWS)
    live, fits = place < stop, row < HIDDEN
    depth = tl.arange(0, DEPTH)
    w_at = weight + expert * (HIDDEN * INNER) + tl.minimum(row, HIDDEN - 1)[:, None] * INNER + depth[None, :]
    a_at = inner + tl.minimum(place, stop - 1).to(tl.int64)[None, :] * INNER + depth[:, None]
    total = tl.zeros((ROWS, PAIRS), tl.float32)
    for start in range(0, INNER, DEPTH):
        if INNER % DEPTH == 0:
            w, a = tl.load(w_at), tl.load(a_at)
        else:
            inside = start + depth < INNER
            w = tl.load(w_at, mask=inside[None, :], other=0.0)
            a = tl.load(a_at, mask=inside[:, None], other=0.0)
        total = _multiply(w, a, total)
        w_at += DEPTH
        a_at += DEPTH
    if SCALED:
        pair_scale = tl.load(inner_scale + tl.minimum(place, stop - 1))[None, :]
        total *= tl.load(scale + expert * HIDDEN + tl.minimum(row, HIDDEN - 1))[:, None] * pair_scale
    if BIAS:
        total += tl.load(bias + expert * HIDDEN + row, mask=fits, other=0.0).to(tl.float32)[:, None]
    pair = tl.load(order + place, mask=live, other=0).to(tl.int64)
    result = tl.trans(total.to(out.dtype.element_ty))
    tl.store(out + pair[:, None] * HIDDEN + row[None, :], result, mask=live[:, None] & fits[None, :])


@triton.jit
def _combine(parts, weights, ids, residual, out, residual_stride, first, experts, K: tl.constexpr, K_PAD: tl.constexpr,
             HIDDEN: tl.constexpr, RESIDUAL: tl.constexpr, BLOCK: tl.constexpr,
             PDL: tl.constexpr):  # fmt: skip
    dependent.wait(PDL)
    dependent.release(PDL)
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    live = column < HIDDEN
    slot = tl.arange(0, K_PAD)
    expert = tl.load(ids + token * K + slot, mask=slot < K, other=-1).to(tl.int64) - first
    here = (slot < K) & (expert >= 0) & (expert < experts)
    shares = tl.load(weights + token * K + slot, mask=here, other=0.0).to(tl.float32)
    place = tl.where(here, ascending(expert, slot), K_PAD)
    total = tl.zeros((BLOCK,), tl.float32)
    for index in tl.static_range(K_PAD):
        mine = place == index
        there = live & (tl.sum(mine.to(tl.int32), 0) + tl.zeros((BLOCK,), tl.int32) > 0)
        pair = token * K + tl.sum(tl.where(mine, slot, 0), 0)
        part = tl.load(parts + pair * HIDDEN + column, mask=there, other=0.0)
        total += tl.sum(tl.where(mine, shares, 0.0), 0) * part.to(tl.float32)
    if RESIDUAL:
        total += tl.load(residual + token * residual_stride + column, mask=live, other=0.0).to(tl.float32)
    tl.store(out + token * HIDDEN + column, total.to(out.dtype.element_ty), mask=live)


def group_experts(
    x: torch.Tensor,
    weights: torch.Tensor,
    ids: torch.Tensor,
    experts: Experts,
    residual: torch.Tensor | None,
    tiles: Tiles,
) -> torch.Tensor:
    """See ``hardpoint.ops.moe.moe``; every tensor contiguous but for the rows of ``x`` and ``residual``."""
    (tokens, hidden), k = x.shape, ids.shape[1]
    count, inner = experts.gate_up.shape[0], experts.gate_up.shape[1] // 2
    pairs, pdl = tokens * k, dependent.keywords(x.device)
    order = SortedPairs(ids, count, experts.first, tiles.gate_up.pairs)
    table = (order.order, order.expert, order.start, order.stop, order.num_tiles)
    middle = torch.empty((pairs, inner), dtype=x.dtype, device=x.device)
    tile, weight, scale, bias = tiles.gate_up, experts.gate_up, experts.gate_up_scale, experts.gate_up_bias
    source, source_scale = (x, x) if scale is None else quantize(x)
    _gate_up[(order.num_tiles * triton.cdiv(inner, tile.rows),)](
        source, source_scale, weight, weight if scale is None else scale, weight if bias is None else bias, middle,
        *table, source.stride(0), experts.alpha, experts.limit, K=k, HIDDEN=hidden, INNER=inner,
        ACTIVATION=ACTIVATIONS[experts.activation], SCALED=scale is not None, BIAS=bias is not None,
        PAIRS=tile.pairs, ROWS=tile.rows, DEPTH=tile.depth, GROUP=tile.group, num_warps=tile.warps,
        num_stages=stages(tile.stages), **pdl,
    )  # fmt: skip
    parts = torch.empty((pairs, hidden), dtype=x.dtype, device=x.device)
    tile, weight, scale, bias = tiles.down, experts.down, experts.down_scale, experts.down_bias
    source, source_scale = (middle, middle) if scale is None else quantize(middle)
    _down[(order.num_tiles * triton.cdiv(hidden, tile.rows),)](
        source, source_scale, weight, weight if scale is None else scale, weight if bias is None else bias, parts,
        *table, HIDDEN=hidden, INNER=inner, SCALED=scale is not None, BIAS=bias is not None, PAIRS=tile.pairs,
        ROWS=tile.rows, DEPTH=tile.depth, GROUP=tile.group, num_warps=tile.warps, num_stages=stages(tile.stages), **pdl,
    )  # fmt: skip
    out = torch.empty((tokens, hidden), dtype=x.dtype, device=x.device)
    block = min(1024, triton.next_power_of_2(hidden))
    _combine[(tokens, triton.cdiv(hidden, block))](
        parts, weights, ids, out if residual is None else residual, out, 0 if residual is None else residual.stride(0),
        experts.first, count, K=k, K_PAD=triton.next_power_of_2(k), HIDDEN=hidden, RESIDUAL=residual is not None,
        BLOCK=block, num_warps=4, **pdl,
    )  # fmt: skip
    return out
