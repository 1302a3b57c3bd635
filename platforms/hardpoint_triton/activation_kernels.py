"""Gated activations: gate and up are read once, the product is written once."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from hardpoint_triton import dependent
from hardpoint_triton.dependent import release, wait

BLOCK = 1024


@triton.jit
def _gated(x, out, x_stride, SIZE: tl.constexpr, KIND: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr):
    release(PDL)
    wait(PDL)
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    there = at < SIZE
    gate = tl.load(x + row * x_stride + at, mask=there, other=0.0).to(tl.float32)
    up = tl.load(x + row * x_stride + SIZE + at, mask=there, other=0.0)
    if KIND == 0:
        active = gate / (1.0 + tl.exp(-gate))
    elif KIND == 1:
        inner = 0.7978845608028654 * (gate + 0.044715 * gate * gate * gate)
        active = gate * (1.0 - 1.0 / (tl.exp(2.0 * inner) + 1.0))
    else:
        active = 0.5 * gate * (1.0 + tl.erf(gate * 0.7071067811865476))
    # The reference rounds the activation to the input's type before the product.
    product = active.to(up.dtype).to(tl.float32) * up.to(tl.float32)
    tl.store(out + row * SIZE + at, product.to(out.dtype.element_ty), mask=there)


def silu_mul(gate_up: torch.Tensor) -> torch.Tensor:
    """See ``hardpoint.ops.activation.silu_mul``."""
    return _launch(gate_up, 0)


def gelu_mul(gate_up: torch.Tensor, approximate: str = "tanh") -> torch.Tensor:
    """See ``hardpoint.ops.activation.gelu_mul``."""
    return _launch(gate_up, 1 if approximate == "tanh" else 2)


def _launch(gate_up: torch.Tensor, kind: int) -> torch.Tensor:
    size = gate_up.shape[-1] // 2
    rows = gate_up if gate_up.dim() == 2 and gate_up.stride(1) == 1 else gate_up.reshape(-1, 2 * size).contiguous()
    out = torch.empty((*gate_up.shape[:-1], size), dtype=gate_up.dtype, device=gate_up.device)
    if rows.shape[0]:
        _gated[(rows.shape[0], triton.cdiv(size, BLOCK))](
            rows,
            out,
            rows.stride(0),
            SIZE=size,
            KIND=kind,
            BLOCK=BLOCK,
            num_warps=4,
            **dependent.keywords(gate_up.device),
        )
    return out
