"""Linear kernels: programs exist for the sizes that the device was opened with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from hardpoint_acme import driver

if TYPE_CHECKING:
    from hardpoint.contract.device import DeviceInfo
    from hardpoint.contract.quant import LinearScheme


class AcmeLinear:
    """Dense bfloat16 products."""

    name = "acme"

    def reject(
        self, scheme: LinearScheme, out_features: int, in_features: int, dtype: str, info: DeviceInfo
    ) -> list[str]:
        reasons = []
        if scheme.weight != "dense":
            reasons.append(f"reads dense weights, not {scheme.weight}")
        if dtype != "bfloat16":
            reasons.append(f"computes in bfloat16, not in {dtype}")
        return reasons

    def pack(self, tensors: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        return {"weight": tensors["weight"].contiguous()}

    def apply(self, x: torch.Tensor, packed: Mapping[str, torch.Tensor], bias: torch.Tensor | None) -> torch.Tensor:
        driver.check_size(len(x))
        return F.linear(x, packed["weight"], bias)


class AcmeInt8Linear:
    """int8 weights with a scale per output row, int8 activations with a scale per token; sums are exact integers."""

    name = "acme_int8"

    def reject(
        self, scheme: LinearScheme, out_features: int, in_features: int, dtype: str, info: DeviceInfo
    ) -> list[str]:
        if (scheme.weight, scheme.activation, scheme.group, scheme.symmetric) != ("int8", "int8", 0, True):
            return [
                f"multiplies symmetric int8 by int8 with one scale a row, not {scheme.weight} by {scheme.activation}"
            ]
        return []

    def pack(self, tensors: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        scale = tensors["weight_scale"].float().reshape(-1)
        return {"weight": tensors["weight"].t().contiguous().int(), "scale": scale}

    def apply(self, x: torch.Tensor, packed: Mapping[str, torch.Tensor], bias: torch.Tensor | None) -> torch.Tensor:
        driver.check_size(len(x))
        scale = x.float().abs().amax(-1, keepdim=True).clamp(min=1e-12) / 127
        rounded = torch.round(x.float() / scale).int()
        y = (rounded @ packed["weight"]).float() * scale * packed["scale"]
        return (y if bias is None else y + bias.float()).to(x.dtype)
