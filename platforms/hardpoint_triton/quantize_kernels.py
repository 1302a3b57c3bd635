"""Around quantized products: norm or activation, then rounding to E4M3, in one pass; scales and the rest behind."""

from __future__ import annotations

import triton
import triton.language as tl

from hardpoint_triton.dependent import release, wait
from hardpoint_triton.stream_kernels import gated

#: The largest finite value of E4M3.
LARGEST = tl.constexpr(448.0)
#: A row of zeros gets a scale that is not zero.
LEAST_SCALE = tl.constexpr(2.0**-40)

PLAIN = tl.constexpr(0)
NORM = tl.constexpr(1)
SILU = tl.constexpr(2)


@triton.jit
def quantize_row(x, weight, codes, scales, x_stride, scale_row, scale_group, eps, offset, SIZE: tl.constexpr,
                 PADDED: tl.constexpr, KIND: tl.constexpr, WIDE: tl.constexpr, GROUP: tl.constexpr,
                 PDL: tl.constexpr):  # fmt: skip
    """One row a program; a scale for the row (``GROUP`` 0) or for each ``GROUP`` of its elements.

    What is rounded is what the unfused ops would have stored: values pass through the type of ``x`` first.
    """
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, PADDED)
    there = at < SIZE
    if KIND == NORM:
        factor = tl.load(weight + at, mask=there, other=0.0)
    release(PDL)
    wait(PDL)
    values = tl.load(x + row * x_stride + at, mask=there, other=0.0)
    wide = values.to(tl.float32)
    if KIND == NORM:
        normed = wide * tl.rsqrt(tl.sum(wide * wide, 0) / SIZE + eps)
        if WIDE:
            result = normed * (factor.to(tl.float32) + offset)
        else:
            result = normed.to(values.dtype).to(tl.float32) * factor.to(tl.float32)
        wide = result.to(values.dtype).to(tl.float32)
    elif KIND == SILU:
        up = tl.load(x + row * x_stride + SIZE + at, mask=there, other=0.0).to(tl.float32)
        active = wide / (1.0 + tl.exp(-wide))
        wide = (active.to(values.dtype).to(tl.float32) * up).to(values.dtype).to(tl.float32)
    if GROUP:
        groups: tl.constexpr = PADDED // GROUP
        folded = tl.reshape(wide, (groups, GROUP))
        scale = tl.maximum(tl.max(tl.abs(folded), 1) / LARGEST, LEAST_SCALE)
        group = tl.arange(0, groups)
        tl.store(scales + row * scale_row + group * scale_group, scale, mask=group < SIZE // GROUP)
        quotient = tl.reshape(folded / scale[:, None], (PADDED,))
    else:
        scale = tl.maximum(tl.max(tl.abs(wide), 0) / LARGEST, LEAST_SCALE)
        tl.store(scales + row * scale_row, scale)
        quotient = wide / scale
    # The quotient of the largest may round up past the last value, which conversion on some chips does not catch.
    quotient = tl.minimum(tl.maximum(quotient, -LARGEST), LARGEST)
    tl.store(codes + row * SIZE + at, quotient.to(codes.dtype.element_ty), mask=there)


@triton.jit
def rescale_row(raw, x_scale, weight_scale, bias, residual, out, n_out, BLOCK: tl.constexpr, KIND: tl.constexpr,
                BIAS: tl.constexpr, RESIDUAL: tl.constexpr, PDL: tl.constexpr):  # fmt: skip
    """``residual + activation(raw * x_scale * weight_scale + bias)`` for a block of one row."""
    row = tl.program_id(0).to(tl.int64)
    n = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    there = n < n_out
    factor = tl.load(weight_scale + n, mask=there, other=0.0)
    if KIND:
        up_factor = tl.load(weight_scale + n_out + n, mask=there, other=0.0)
    release(PDL)
    wait(PDL)
    scale = tl.load(x_scale + row)
    width = 2 * n_out if KIND else n_out
    total = tl.load(raw + row * width + n, mask=there, other=0.0).to(tl.float32) * (factor * scale)
    if BIAS:
        total += tl.load(bias + n, mask=there, other=0.0).to(tl.float32)
    if KIND:
        up = tl.load(raw + row * width + n_out + n, mask=there, other=0.0).to(tl.float32) * (up_factor * scale)
        if BIAS:
            up += tl.load(bias + n_out + n, mask=there, other=0.0).to(tl.float32)
        total = gated(total, up, KIND)
    if RESIDUAL:
        total += tl.load(residual + row * n_out + n, mask=there, other=0.0).to(tl.float32)
    tl.store(out + row * n_out + n, total.to(out.dtype.element_ty), mask=there)
