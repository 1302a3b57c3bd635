"""Weights of tokens as ``hardpoint.ops.sampling`` defines them: functions that the kernels which draw share.

Division and exponential round as the reference's do on the same chip, so that both draw the same token also where a hundred
thousand tokens are about equally likely.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra import libdevice

if triton.knobs.runtime.interpret:

    @triton.jit
    def _exp(x):
        return tl.exp(x)

else:

    @triton.jit
    def _exp(x):
        # ``tl.exp`` is a few units off in the last place; the interpreter has numpy's, which is not, and no library.
        return libdevice.exp(x)


@triton.jit
def weights_of(values, best, temperature, min_p):
    """Return float32 weights relative to the best token, 0 below min-p."""
    weights = _exp(tl.div_rn(values - best, temperature))
    return tl.where(weights < min_p, 0.0, weights)


@triton.jit
def mass_of(total, top_p):
    """Return the mass that ``top_p`` asks for, at least 1."""
    product = total.to(tl.float64) * top_p
    part = product.to(tl.int64)
    part += (part.to(tl.float64) < product).to(tl.int64)
    return tl.maximum(tl.where(top_p < 1.0, part, total), 1)


@triton.jit
def target_of(total, uniform):
    """Return the point in [0, total) that ``uniform`` stands for."""
    return tl.minimum((uniform * total.to(tl.float64)).to(tl.int64), total - 1)


@triton.jit
def row_weights(logits, at, vocab, best, temperature, min_p):
    values = tl.load(logits + at, mask=at < vocab, other=float("-inf")).to(tl.float32)
    return tl.where(at < vocab, weights_of(values, best, temperature, min_p), 0.0)


@triton.jit
def whole_of(weights):
    """Return weights as whole numbers of 2**-40, int64."""
    return (weights * 1099511627776.0).to(tl.int64)
