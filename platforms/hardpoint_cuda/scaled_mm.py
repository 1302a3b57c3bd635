"""Products in 8-bit floats (E4M3) on the matrix units, by cuBLASLt through PyTorch.

Every token's input is rounded with a scale of its own, in the pass that norms it where there is a norm, whichever way the
product then takes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final

import torch

from hardpoint.contract.device import DeviceInfo
from hardpoint.contract.quant import PLAIN, Fusion, LinearScheme
from hardpoint_triton.activation_kernels import gelu_mul, silu_mul
from hardpoint_triton.quantize import norm_quantize, quantize

FIRST_ARCH: Final = 90
#: Rows and columns of weights come in multiples of it.
ALIGNMENT: Final = 16


class ScaledMm:
    """``(codes of x * scale per token) @ (codes of the weight * scale per row).T``, in bfloat16."""

    name: ClassVar[str] = "scaled_mm"

    def reject(
        self, scheme: LinearScheme, out_features: int, in_features: int, dtype: str, info: DeviceInfo
    ) -> list[str]:
        if scheme.weight != "fp8_e4m3":
            return [f"reads fp8_e4m3 weights only, not {scheme.weight}"]
        reasons = []
        if scheme.activation != "fp8_e4m3":
            reasons.append(f"rounds inputs to fp8_e4m3, the checkpoint keeps them in {scheme.activation or dtype}")
        if scheme.group > 0:
            reasons.append(f"takes a scale per row or per tensor, not one for {scheme.group} inputs")
        if not info.arch.startswith("sm") or int(info.arch.removeprefix("sm")) < FIRST_ARCH:
            reasons.append(f"{info.arch} is no sm{FIRST_ARCH} or later")
        if dtype != "bfloat16":
            reasons.append(f"dtype is {dtype}; it must be bfloat16")
        for what, size in (("output", out_features), ("input", in_features)):
            if size % ALIGNMENT:
                reasons.append(f"{what} size {size} is no multiple of {ALIGNMENT}")
        return reasons

    def pack(self, tensors: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        return {"weight": tensors["weight"], "weight_scale": tensors["weight_scale"].reshape(1, -1).contiguous()}

    def apply(self, x: torch.Tensor, packed: Mapping[str, torch.Tensor], bias: torch.Tensor | None) -> torch.Tensor:
        return self.apply_fused(x, packed, bias, PLAIN, None, None)

    def fuses(self, fusion: Fusion, scheme: LinearScheme, bias: bool) -> bool:
        return True

    def apply_fused(
        self,
        x: torch.Tensor,
        packed: Mapping[str, torch.Tensor],
        bias: torch.Tensor | None,
        fusion: Fusion,
        norm_weight: torch.Tensor | None,
        residual: torch.Tensor | None,
    ) -> torch.Tensor:
        if fusion.norm is None or norm_weight is None:
            codes, scale = quantize(x)
        else:
            codes, scale = norm_quantize(x, fusion.norm, norm_weight)
        y = torch._scaled_mm(
            codes,
            packed["weight"].t(),
            scale,
            packed["weight_scale"],
            bias=bias,
            out_dtype=torch.bfloat16,
            use_fast_accum=True,
        )
        if fusion.activation == "silu_mul":
            y = silu_mul(y)
        elif fusion.activation:
            y = gelu_mul(y, "tanh" if fusion.activation == "gelu_mul" else "none")
        return y if residual is None else residual.add_(y)
