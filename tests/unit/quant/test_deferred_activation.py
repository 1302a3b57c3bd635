"""The activation between gate and up and the last projection, where the kernel behind takes it over."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from weights_rig import load

from hardpoint.contract.device import DeviceInfo
from hardpoint.contract.quant import Fusion, LinearScheme
from hardpoint.ops.activation import silu_mul
from hardpoint.ops.norm import rms_norm


class Whole:
    """Fuses everything, and leaves activations to the layer behind where it may. Takes projections of some sizes."""

    name: ClassVar[str] = "whole-test"

    def __init__(self, inputs: set[int]) -> None:
        self.inputs = inputs
        self.widths: list[tuple[int, int]] = []

    def reject(
        self, scheme: LinearScheme, out_features: int, in_features: int, dtype: str, info: DeviceInfo
    ) -> list[str]:
        return [] if in_features in self.inputs else ["another size"]

    def pack(self, tensors: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        return tensors

    def apply(self, x: torch.Tensor, packed: Mapping[str, torch.Tensor], bias: torch.Tensor | None) -> torch.Tensor:
        return F.linear(x, packed["weight"], bias)

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
        if fusion.norm is not None and norm_weight is not None:
            x = rms_norm(x, norm_weight, fusion.norm.eps, fusion.norm.offset)
        if fusion.input_activation and x.shape[1] == 2 * packed["weight"].shape[1]:
            assert fusion.input_activation == "silu_mul"
            x = silu_mul(x)
        y = self.apply(x, packed, bias)
        if fusion.activation and not fusion.deferrable:
            y = silu_mul(y)
        self.widths.append((x.shape[1], y.shape[1]))
        return y if residual is None else residual + y


@pytest.mark.parametrize(
    ("inputs", "widths"),
    [({192, 320}, [(192, 640), (320, 192)]), ({192}, [(192, 320)]), ({320}, [(320, 192)])],
    ids=["both", "gate-and-up", "down"],
)
def test_an_mlp_gives_the_same(
    inputs: set[int], widths: list[tuple[int, int]], checkpoint: Callable[..., Path]
) -> None:
    folder = checkpoint()
    kernel = Whole(inputs)
    reference: Any = load(folder).model
    model: Any = load(folder, kernels=(kernel,)).model
    x = torch.randn(5, 192, generator=torch.Generator().manual_seed(0))
    got, want = (m.layers[1].mlp(x, x.clone()) for m in (model, reference))
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
    assert kernel.widths == widths
