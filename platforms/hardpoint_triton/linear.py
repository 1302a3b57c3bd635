"""Dense linear layers: our own kernel where reading the weight is the time, the vendor's product where the arithmetic is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final

import torch
import torch.nn.functional as F

from hardpoint.contract.device import DeviceInfo
from hardpoint.contract.quant import DENSE, Fusion, LinearScheme
from hardpoint_triton.activation_kernels import gelu_mul, silu_mul
from hardpoint_triton.norm_kernels import rms_norm
from hardpoint_triton.stream import ACTIVATIONS, stream, takes

#: Rows up to which the streaming kernels are no slower than the vendor's product with what surrounds it, by type.
STREAMED_ROWS: Final = {torch.bfloat16: 64, torch.float16: 64, torch.float32: 1}


class TritonLinear:
    """Products with norm, activation and residual stream fused: into one kernel for few rows, around cuBLAS for many."""

    name: ClassVar[str] = "triton"
    stream = staticmethod(stream)

    def reject(
        self, scheme: LinearScheme, out_features: int, in_features: int, dtype: str, info: DeviceInfo
    ) -> list[str]:
        reasons = [] if scheme.weight == "dense" else [f"reads dense weights only, not {scheme.weight}"]
        if not info.arch.startswith(("sm", "gfx")):
            reasons.append(f"Triton compiles for GPUs, not for {info.arch}")
        if dtype not in ("float32", "bfloat16", "float16"):
            reasons.append(f"dtype is {dtype}; it must be float32, bfloat16 or float16")
        return reasons

    def pack(self, tensors: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        return {"weight": tensors["weight"].contiguous()}

    def apply(self, x: torch.Tensor, packed: Mapping[str, torch.Tensor], bias: torch.Tensor | None) -> torch.Tensor:
        weight = packed["weight"]
        if len(x) <= STREAMED_ROWS[x.dtype] and takes(x, weight):
            return self.stream(x, weight, bias=bias)
        return F.linear(x, weight, bias)

    def fuses(self, fusion: Fusion, scheme: LinearScheme, bias: bool) -> bool:
        return scheme == DENSE and fusion.activation in ACTIVATIONS and not fusion.input_activation

    def apply_fused(
        self,
        x: torch.Tensor,
        packed: Mapping[str, torch.Tensor],
        bias: torch.Tensor | None,
        fusion: Fusion,
        norm_weight: torch.Tensor | None,
        residual: torch.Tensor | None,
    ) -> torch.Tensor:
        weight, norm = packed["weight"], fusion.norm
        if len(x) <= STREAMED_ROWS[x.dtype] and takes(x, weight):
            return self.stream(
                x,
                weight,
                norm=norm,
                norm_weight=norm_weight,
                activation=fusion.activation,
                residual=residual,
                bias=bias,
            )
        if norm is not None:
            assert norm_weight is not None
            x = rms_norm(x, norm_weight, norm.eps, norm.offset)
        if residual is not None and bias is None and not fusion.activation:
            return residual.addmm_(x, weight.t())
        y = activate(F.linear(x, weight, bias), fusion.activation)
        return y if residual is None else residual.add_(y)


def activate(y: torch.Tensor, activation: str) -> torch.Tensor:
    """Return ``activation`` of a product's output [T, 2 * size], gate first."""
    if activation == "silu_mul":
        return silu_mul(y)
    if activation:
        return gelu_mul(y, "tanh" if activation == "gelu_mul" else "none")
    return y
