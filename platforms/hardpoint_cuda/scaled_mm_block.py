"""Products in 8-bit floats (E4M3) whose weights have a scale for each block of 128 x 128, by cuBLASLt through PyTorch.

Inputs get a scale for each 128 elements of a token, as DeepSeek-V3's report (2024, section 3.3) has it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final

import torch
from torch.nn.functional import ScalingType, scaled_mm

from hardpoint.contract.device import DeviceInfo
from hardpoint.contract.quant import PLAIN, Fusion, LinearScheme
from hardpoint_triton.linear import activate
from hardpoint_triton.quantize import GROUP, norm_quantize, quantize, silu_mul_quantize
from hardpoint_triton.stream import ACTIVATIONS

#: The one architecture whose cuBLASLt multiplies with such scales; later ones want powers of two.
ARCH: Final = "sm90"


class ScaledMmBlock:
    """``(codes of x * scale per 128 of a token) @ (codes of the weight * scale per block).T``, in bfloat16."""

    name: ClassVar[str] = "scaled_mm_block"

    def reject(
        self, scheme: LinearScheme, out_features: int, in_features: int, dtype: str, info: DeviceInfo
    ) -> list[str]:
        if scheme.weight != "fp8_e4m3":
            return [f"reads fp8_e4m3 weights only, not {scheme.weight}"]
        reasons = []
        if scheme.activation != "fp8_e4m3":
            reasons.append(f"rounds inputs to fp8_e4m3, the checkpoint keeps them in {scheme.activation or dtype}")
        if scheme.group != GROUP:
            reasons.append(f"takes a scale per block of {GROUP} x {GROUP} only")
        if info.arch != ARCH:
            reasons.append(f"cuBLASLt has such products on {ARCH} only, not on {info.arch}")
        if dtype != "bfloat16":
            reasons.append(f"dtype is {dtype}; it must be bfloat16")
        for what, size in (("output", out_features), ("input", in_features)):
            if size % GROUP:
                reasons.append(f"{what} size {size} is no multiple of {GROUP}")
        return reasons

    def pack(self, tensors: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        return {"weight": tensors["weight"].contiguous(), "weight_scale": tensors["weight_scale"].contiguous()}

    def apply(self, x: torch.Tensor, packed: Mapping[str, torch.Tensor], bias: torch.Tensor | None) -> torch.Tensor:
        return self.apply_fused(x, packed, bias, PLAIN, None, None)

    def fuses(self, fusion: Fusion, scheme: LinearScheme, bias: bool) -> bool:
        return fusion.activation in ACTIVATIONS and fusion.input_activation in ("", "silu_mul")

    def apply_fused(
        self,
        x: torch.Tensor,
        packed: Mapping[str, torch.Tensor],
        bias: torch.Tensor | None,
        fusion: Fusion,
        norm_weight: torch.Tensor | None,
        residual: torch.Tensor | None,
    ) -> torch.Tensor:
        weight = packed["weight"]
        if fusion.norm is not None and norm_weight is not None:
            codes, scale = norm_quantize(x, fusion.norm, norm_weight, group=GROUP)
        elif x.shape[1] == 2 * weight.shape[1]:
            codes, scale = silu_mul_quantize(x, group=GROUP)
        else:
            codes, scale = quantize(x, group=GROUP)
        y = scaled_mm(
            codes,
            weight.t(),
            scale,
            ScalingType.BlockWise1x128,
            packed["weight_scale"].t(),
            ScalingType.BlockWise128x128,
            output_dtype=x.dtype,
        )[: len(x)]
        if bias is not None:
            y += bias
        if not fusion.deferrable:
            y = activate(y, fusion.activation)
        return y if residual is None else residual.add_(y)
