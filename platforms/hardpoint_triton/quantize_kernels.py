"""Inputs of quantized products: norm or activation, then rounding to E4M3, in one pass over memory."""

from __future__ import annotations

import triton
import triton.language as tl

from hardpoint_triton.dependent import release, wait

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
