"""What surrounds a product: norm before, activation and residual stream behind; fused by the kernel or composed of ops."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

import torch

from hardpoint.contract.errors import UnsupportedModelError
from hardpoint.contract.quant import PLAIN, FusedLinearKernel, Fusion, LinearKernel, LinearScheme

if TYPE_CHECKING:
    from hardpoint.layers.norm import RMSNorm
    from hardpoint.ops import OpTable

#: A configuration's activation -> the gated activation's name in a fusion.
_GATED = {
    "silu": "silu_mul",
    "swish": "silu_mul",
    "gelu_pytorch_tanh": "gelu_mul",
    "gelu_new": "gelu_mul",
    "gelu": "gelu_mul_exact",
}

Product = Callable[
    [torch.Tensor, Mapping[str, torch.Tensor], "torch.Tensor | None", "torch.Tensor | None"], torch.Tensor
]


def surround(
    kernel: LinearKernel, scheme: LinearScheme, fusion: Fusion, norm: RMSNorm | None, ops: OpTable, *, bias: bool
) -> Product:
    """Return ``(x, packed, bias, residual) -> residual + activation(norm(x) W^T + bias)``, fused where the kernel can."""
    if fusion != PLAIN and fuses(kernel, scheme, fusion, bias):
        assert isinstance(kernel, FusedLinearKernel)
        apply_fused, weight = kernel.apply_fused, None if norm is None else norm.weight
        return lambda x, packed, b, residual: apply_fused(x, packed, b, fusion, weight, residual)
    apply, activate = kernel.apply, activation_op(ops, fusion.activation) if fusion.activation else None

    def composed(
        x: torch.Tensor,
        packed: Mapping[str, torch.Tensor],
        bias: torch.Tensor | None,
        residual: torch.Tensor | None,
    ) -> torch.Tensor:
        y = apply(x if norm is None else norm(x), packed, bias)
        if activate is not None:
            y = activate(y)
        return y if residual is None else residual.add_(y)

    return composed


def fuses(kernel: LinearKernel, scheme: LinearScheme, fusion: Fusion, bias: bool) -> bool:
    """Return whether a kernel takes over all of ``fusion``."""
    return isinstance(kernel, FusedLinearKernel) and kernel.fuses(fusion, scheme, bias)


def activation_op(ops: OpTable, name: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the op of a :class:`~hardpoint.contract.quant.Fusion`'s activation."""
    if name == "gelu_mul_exact":
        return partial(ops.gelu_mul, approximate="none")
    return ops.silu_mul if name == "silu_mul" else ops.gelu_mul


def gated_activation(name: str) -> str:
    """Return what a fusion calls ``act(gate) * up`` for an activation as config.json spells it.

    Raises:
        UnsupportedModelError: for an activation without one.
    """
    if name not in _GATED:
        raise UnsupportedModelError(
            f"the model's activation is {name!r}; native layers know silu, gelu and gelu_pytorch_tanh. "
            "Try --model-impl transformers"
        )
    return _GATED[name]
