"""Products of few rows: every weight is read once at the memory's rate, and what surrounds the product rides along.

``y = residual + activation(scale * (norm(x) @ weight.T) + bias)``. The norm of one row costs no pass of its own: ``x`` is
multiplied by the norm's weight on its way into the product, its squares are summed as it passes by, and since the product is
linear the root mean square divides the result.

The programs that start first ask for the beginning of their weights to be brought into the L2 cache and only then wait for
the kernel that makes their input (see ``dependent``), so that memory stays busy between two kernels. More than the beginning
would not do: what all programs fetch ahead has to fit into the cache beside its copies (measured on an H200: fetching whole
tiles costs a fifth of the rate).
"""

from __future__ import annotations

import triton
import triton.language as tl

from hardpoint_triton.dependent import release, wait


@triton.jit
def prefetch(lines, size_of_each, ROWS: tl.constexpr):
    """Bring ``size_of_each`` bytes (a multiple of 16) from each of the addresses ``lines`` [ROWS] into the L2 cache."""
    size = tl.zeros((ROWS,), tl.int32) + size_of_each
    tl.inline_asm_elementwise(
        "cp.async.bulk.prefetch.L2.global [$1], $2; mov.u32 $0, 0;",
        "=r,l,r", [lines.to(tl.int64, bitcast=True), size], dtype=tl.int32, is_pure=False, pack=1,
    )  # fmt: skip


@triton.jit
def gated(gate, up, KIND: tl.constexpr):
    """Return ``act(gate) * up`` in float32: silu, gelu by tanh, or exact gelu for KIND 1, 2, 3."""
    if KIND == 1:
        active = gate / (1.0 + tl.exp(-gate))
    elif KIND == 2:
        inner = 0.7978845608028654 * (gate + 0.044715 * gate * gate * gate)
        active = gate * (1.0 - 1.0 / (tl.exp(2.0 * inner) + 1.0))
    else:
        active = 0.5 * gate * (1.0 + tl.erf(gate * 0.7071067811865476))
    return active * up


@triton.jit
def one_row(x, weight, out, norm_weight, bias, residual, weight_scale, x_scale, n_out, k_in, eps, offset,
            BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, STAGES: tl.constexpr, NORM: tl.constexpr, KIND: tl.constexpr,
            BIAS: tl.constexpr, RESIDUAL: tl.constexpr, SCALED: tl.constexpr, X_SCALED: tl.constexpr, EVEN: tl.constexpr,
            EARLY: tl.constexpr, FIRST_WAVE: tl.constexpr, PDL: tl.constexpr):  # fmt: skip
    """One row by plain multiply-adds: a program has ``BLOCK_N`` whole rows of the weight (as many pairs if gated).

    The first ``FIRST_WAVE`` programs fetch the first ``EARLY`` elements of each of their rows ahead of the wait.
    """
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    here = n < n_out
    k = tl.arange(0, BLOCK_K)
    line = weight + tl.where(here, n, 0).to(tl.int64) * k_in
    up_line = line + k_in.to(tl.int64) * n_out
    if EARLY:
        if tl.program_id(0) < FIRST_WAVE:
            prefetch(line, EARLY * weight.dtype.element_ty.primitive_bitwidth // 8, BLOCK_N)
            if KIND:
                prefetch(up_line, EARLY * weight.dtype.element_ty.primitive_bitwidth // 8, BLOCK_N)
    release(PDL)
    wait(PDL)
    at, up_at = line[:, None] + k[None, :], up_line[:, None] + k[None, :]
    # Sums stay apart per column until the end: one reduction a program.
    sums = tl.zeros((BLOCK_N, BLOCK_K), tl.float32)
    up_sums = tl.zeros((BLOCK_N, BLOCK_K), tl.float32)
    squares = tl.zeros((BLOCK_K,), tl.float32)
    for start in tl.range(0, k_in, BLOCK_K, num_stages=STAGES):
        if EVEN:
            tile = tl.load(at + start, eviction_policy="evict_first")
            values = tl.load(x + start + k).to(tl.float32)
        else:
            inside = k < k_in - start
            tile = tl.load(at + start, mask=inside[None, :], other=0.0, eviction_policy="evict_first")
            values = tl.load(x + start + k, mask=inside, other=0.0).to(tl.float32)
        if NORM:
            squares += values * values
            if EVEN:
                factor = tl.load(norm_weight + start + k).to(tl.float32)
            else:
                factor = tl.load(norm_weight + start + k, mask=k < k_in - start, other=0.0).to(tl.float32)
            values = values * (factor + offset)
        sums += tile.to(tl.float32) * values[None, :]
        if KIND:
            if EVEN:
                up_tile = tl.load(up_at + start, eviction_policy="evict_first")
            else:
                up_tile = tl.load(up_at + start, mask=(k < k_in - start)[None, :], other=0.0, eviction_policy="evict_first")
            up_sums += up_tile.to(tl.float32) * values[None, :]
    total = tl.sum(sums, 1)
    factor_x = 1.0
    if NORM:
        factor_x = tl.rsqrt(tl.sum(squares, 0) / k_in + eps)
    if X_SCALED:
        factor_x = factor_x * tl.load(x_scale)
    total = total * factor_x
    if SCALED:
        total = total * tl.load(weight_scale + n, mask=here, other=0.0)
    if BIAS:
        total += tl.load(bias + n, mask=here, other=0.0).to(tl.float32)
    if KIND:
        up_total = tl.sum(up_sums, 1) * factor_x
        if SCALED:
            up_total = up_total * tl.load(weight_scale + n_out + n, mask=here, other=0.0)
        if BIAS:
            up_total += tl.load(bias + n_out + n, mask=here, other=0.0).to(tl.float32)
        total = gated(total, up_total, KIND)
    if RESIDUAL:
        total += tl.load(residual + n, mask=here, other=0.0).to(tl.float32)
    tl.store(out + n, total.to(out.dtype.element_ty), mask=here)


@triton.jit(do_not_specialize=["rows"])
def few_rows(x, weight, out, bias, residual, weight_scale, x_scale, partial, arrived, rows, x_stride, n_out, k_in,
             ROWS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, SPLIT: tl.constexpr, STAGES: tl.constexpr,
             KIND: tl.constexpr, BIAS: tl.constexpr, RESIDUAL: tl.constexpr, SCALED: tl.constexpr,
             X_SCALED: tl.constexpr, EVEN: tl.constexpr, EARLY: tl.constexpr, FIRST_WAVE: tl.constexpr,
             PDL: tl.constexpr):  # fmt: skip
    """Up to ``ROWS`` rows by the matrix units: the weight's tile is the left operand, ``x`` transposed the right one.

    ``SPLIT`` programs share the input features of a tile. Each stores its sums; the one that arrives last adds all of them
    in their order, so that the result does not depend on which it was.
    """
    tile_index, part = tl.program_id(0), tl.program_id(1)
    n = tile_index * BLOCK_N + tl.arange(0, BLOCK_N)
    here = n < n_out
    k = tl.arange(0, BLOCK_K)
    m = tl.arange(0, ROWS)
    share = tl.cdiv(tl.cdiv(k_in, SPLIT), BLOCK_K) * BLOCK_K
    first = part * share
    last = tl.minimum(first + share, k_in)
    line = weight + tl.where(here, n, 0).to(tl.int64) * k_in + first
    up_line = line + k_in.to(tl.int64) * n_out
    if EARLY:
        if part * tl.num_programs(0) + tile_index < FIRST_WAVE:
            size = tl.maximum(tl.minimum(last - first, EARLY), 0) * weight.dtype.element_ty.primitive_bitwidth // 8
            prefetch(line, size, BLOCK_N)
            if KIND:
                prefetch(up_line, size, BLOCK_N)
    release(PDL)
    wait(PDL)
    total = tl.zeros((BLOCK_N, ROWS), tl.float32)
    up_total = tl.zeros((BLOCK_N, ROWS), tl.float32)
    at, up_at = line[:, None] + k[None, :], up_line[:, None] + k[None, :]
    x_at = x + m[None, :] * x_stride + (first + k)[:, None]
    for start in tl.range(0, last - first, BLOCK_K, num_stages=STAGES):
        inside = k < last - first - start
        if EVEN:
            tile = tl.load(at + start, eviction_policy="evict_first")
            values = tl.load(x_at + start, mask=m[None, :] < rows, other=0.0)
        else:
            tile = tl.load(at + start, mask=inside[None, :], other=0.0, eviction_policy="evict_first")
            values = tl.load(x_at + start, mask=(m[None, :] < rows) & inside[:, None], other=0.0)
        total = tl.dot(tile.to(values.dtype), values, total, input_precision="ieee")
        if KIND:
            if EVEN:
                up_tile = tl.load(up_at + start, eviction_policy="evict_first")
            else:
                up_tile = tl.load(up_at + start, mask=inside[None, :], other=0.0, eviction_policy="evict_first")
            up_total = tl.dot(up_tile.to(values.dtype), values, up_total, input_precision="ieee")
    if SPLIT > 1:
        cells: tl.constexpr = BLOCK_N * ROWS
        each: tl.constexpr = 2 * cells if KIND else cells
        cell = tl.arange(0, BLOCK_N)[:, None] * ROWS + m[None, :]
        mine = partial + (tile_index * SPLIT + part) * each
        tl.store(mine + cell, total)
        if KIND:
            tl.store(mine + cells + cell, up_total)
        # All threads' stores come before the one thread's announcement of them.
        tl.debug_barrier()
        if tl.atomic_add(arrived + tile_index, 1, sem="acq_rel") != SPLIT - 1:
            return
        tl.store(arrived + tile_index, 0)
        total = tl.zeros((BLOCK_N, ROWS), tl.float32)
        up_total = tl.zeros((BLOCK_N, ROWS), tl.float32)
        for index in tl.static_range(SPLIT):
            theirs = partial + (tile_index * SPLIT + index) * each
            total += tl.load(theirs + cell, cache_modifier=".cg")
            if KIND:
                up_total += tl.load(theirs + cells + cell, cache_modifier=".cg")
    if X_SCALED:
        factor = tl.load(x_scale + m, mask=m < rows, other=0.0)[None, :]
        total, up_total = total * factor, up_total * factor
    if SCALED:
        total = total * tl.load(weight_scale + n, mask=here, other=0.0)[:, None]
    if BIAS:
        total += tl.load(bias + n, mask=here, other=0.0).to(tl.float32)[:, None]
    if KIND:
        if SCALED:
            up_total = up_total * tl.load(weight_scale + n_out + n, mask=here, other=0.0)[:, None]
        if BIAS:
            up_total += tl.load(bias + n_out + n, mask=here, other=0.0).to(tl.float32)[:, None]
        total = gated(total, up_total, KIND)
    there = here[:, None] & (m[None, :] < rows)
    to = m[None, :] * n_out + n[:, None]
    if RESIDUAL:
        total += tl.load(residual + to, mask=there, other=0.0).to(tl.float32)
    tl.store(out + to, total.to(out.dtype.element_ty), mask=there)
