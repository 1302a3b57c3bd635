"""What the streamed and the grouped way of running experts share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
import triton
import triton.language as tl

ACTIVATIONS: Final = {"silu": 0, "gelu_tanh": 1, "swiglu_oai": 2}


@dataclass(frozen=True, slots=True)
class Experts:
    """What the chosen experts compute: see ``hardpoint.ops.moe.moe``."""

    gate_up: torch.Tensor
    down: torch.Tensor
    activation: str
    gate_up_bias: torch.Tensor | None
    down_bias: torch.Tensor | None
    alpha: float
    limit: float
    first: int = 0
    gate_up_scale: torch.Tensor | None = None
    down_scale: torch.Tensor | None = None


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
