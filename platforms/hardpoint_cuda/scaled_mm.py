"""Products in 8-bit floats (E4M3): weights stream through our own kernel for few rows, cuBLASLt multiplies for many.

Every token's input is rounded with a scale of its own, in the pass that norms it where there is a norm, whichever way the
product then takes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final

import torch

from hardpoint.contract.device import DeviceInfo
from hardpoint.contract.quant import PLAIN, Fusion, LinearScheme
from hardpoint_triton.linear import activate
from hardpoint_triton.quantize import norm_quantize, quantize, rescale, silu_mul_quantize
from hardpoint_triton.stream import ACTIVATIONS, stream

FIRST_ARCH: Final = 90
#: Rows and columns of weights come in multiples of it.
ALIGNMENT: Final = 16
#: Rows up to which streaming the weights is no slower than cuBLASLt with what surrounds it.
STREAMED_ROWS: Final = 32
#: Rows up to which cuBLASLt's product of plain codes, with the scales applied behind it, beats its product with a scale per
#: row, which does not split the inputs of small products: 14336 -> 4096 takes 18 and 40 us at 32 rows, 42 each at 512.
RESCALED_ROWS: Final = 384


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
        scale = tensors["weight_scale"].contiguous()
        one = torch.ones((), dtype=torch.float32, device=scale.device)
        weight = tensors["weight"].contiguous()
        views = {"transposed": weight.t(), "row_scale": scale.unsqueeze(0)}
        return {"weight": weight, "weight_scale": scale, "one": one, **views}

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
        if fusion.norm is not None and norm_weight is not None:
            codes, scale = norm_quantize(x, fusion.norm, norm_weight)
        elif x.shape[1] == 2 * packed["weight"].shape[1]:
            codes, scale = silu_mul_quantize(x)
        else:
            codes, scale = quantize(x)
        if len(x) <= STREAMED_ROWS:
            return stream(
                codes,
                packed["weight"],
                weight_scale=packed["weight_scale"],
                x_scale=scale,
                activation=fusion.activation,
                residual=residual,
                bias=bias,
                out_dtype=x.dtype,
            )
        weight = packed["transposed"]
        if len(x) <= RESCALED_ROWS:
            one = packed["one"]
            raw = torch._scaled_mm(codes, weight, one, one, out_dtype=x.dtype, use_fast_accum=True)
            return rescale(raw, scale, packed["weight_scale"], bias, fusion.activation, residual)
        y = torch._scaled_mm(
            codes, weight, scale, packed["row_scale"], bias=bias, out_dtype=x.dtype, use_fast_accum=True
        )
        # The pass that rounds the next layer's input applies it on its way; above, the pass that scales does.
        y = y if fusion.deferrable else activate(y, fusion.activation)
        return y if residual is None else residual.add_(y)
