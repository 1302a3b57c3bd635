"""Quantization is format x kernel.

A format says what a checkpoint's tensors mean; a kernel says what a platform can run. A new format works at once
everywhere through the dequantizing reference; a new kernel serves every format with that scheme.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from hardpoint.contract.device import DeviceInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearScheme:
    """How one linear layer's weight (and input) is stored. ``weight == "dense"`` is not quantized.

    Attributes:
        weight: ``"dense"``, ``"fp8_e4m3"``, ``"int8"``, ``"int4"``, ``"mxfp4"``, ...
        activation: ``None`` for weight-only, else the type to which inputs are quantized.
        group: input elements that share a scale; 0 for the whole row, -1 for the whole tensor.
        symmetric: whether there is no zero point.
        extra: what is particular to a format.
    """

    weight: str = "dense"
    activation: str | None = None
    group: int = 0
    symmetric: bool = True
    extra: tuple[tuple[str, Any], ...] = ()


DENSE = LinearScheme()


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """One stored tensor of a quantized layer: its shape for a whole (unsharded) layer and torch's name of its dtype.

    ``out_axis`` and ``in_axis`` are the axes that tensor parallelism slices, with ``out_pack`` and ``in_pack`` features per
    stored element (values packed into it, or a group that shares it; the last group may be short); ``None`` where the tensor
    has no such axis.

    Attributes:
        optional: whether a checkpoint may leave it out; then it is zeros.
        per_row: of a tensor without axes: kernels get it as [out], each layer's value repeated for its rows, so that layers
            merged into one product may differ in it.
        also: other suffixes under which checkpoints store it.
    """

    shape: tuple[int, ...]
    dtype: str
    out_axis: int | None = 0
    in_axis: int | None = None
    out_pack: int = 1
    in_pack: int = 1
    optional: bool = False
    per_row: bool = False
    also: tuple[str, ...] = ()


@runtime_checkable
class QuantFormat(Protocol):
    """The meaning of one checkpoint's tensors. Knows no device.

    Attributes:
        unread: regular expressions of the checkpoint's tensors that nothing here reads.
    """

    name: ClassVar[str]
    unread: ClassVar[tuple[str, ...]]

    def scheme(self, path: str) -> LinearScheme:
        """Return the scheme of the linear layer at ``path`` (``DENSE`` for ignored layers)."""

    def tensors(self, scheme: LinearScheme, out_features: int, in_features: int) -> Mapping[str, TensorSpec]:
        """Return the stored tensors by suffix, e.g. ``{"weight": ..., "weight_scale": ...}``."""

    def dequantize(self, scheme: LinearScheme, tensors: Mapping[str, torch.Tensor], dtype: torch.dtype) -> torch.Tensor:
        """Return the dense [out, in] weight: the reference that every kernel is tested against."""


@runtime_checkable
class OnlineFormat(QuantFormat, Protocol):
    """A format into which dense weights are brought while they load, layer by layer."""

    def quantize(self, scheme: LinearScheme, weight: torch.Tensor) -> Mapping[str, torch.Tensor]:
        """Return what :meth:`tensors` lists for ``weight`` [..., out, in], this rank's part of a layer (or of several)."""


@runtime_checkable
class QuantMethod(Protocol):
    """Reads quantization configurations of one kind. A plugin of kind ``quant_methods``, made without arguments."""

    name: ClassVar[str]

    def match(self, quantization_config: Mapping[str, Any]) -> bool:
        """Return whether a checkpoint with this ``quantization_config`` is of this kind."""

    def read(self, quantization_config: Mapping[str, Any]) -> QuantFormat:
        """Return the format of one checkpoint.

        Raises:
            ConfigError: when the configuration asks for what is not read, or is damaged.
        """


@runtime_checkable
class OnlineMethod(QuantMethod, Protocol):
    """A method that also quantizes dense checkpoints: what ``--quantization NAME`` then means."""

    def online(self) -> OnlineFormat: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class NormSpec:
    """A root mean square norm over a product's input.

    Attributes:
        eps: added to the mean square.
        offset: added to the weight in float32 (1 for Gemma).
        wide: the weight is float32 and the product with it is rounded once (OLMo 2, gpt-oss).
    """

    eps: float
    offset: float = 0.0
    wide: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Fusion:
    """What a model computes around a product: ``residual + activation(norm(x) @ weight.T + bias)``.

    Attributes:
        norm: of the input, or ``None``.
        activation: op that halves the output, gate rows first and up rows second: ``"silu_mul"``, ``"gelu_mul"`` (tanh
            approximation) or ``"gelu_mul_exact"``; ``""`` for none.
        residual: whether the layer's output joins the residual stream.
        deferrable: whether a kernel may leave ``activation`` to the layer behind and return the whole output; that layer
            knows by the width of its input.
        input_activation: what the layer's input still has to pass where it has twice the layer's input features. A core
            offers it first and composes nothing: a kernel that does not take it says so in ``fuses``.
    """

    norm: NormSpec | None = None
    activation: str = ""
    residual: bool = False
    deferrable: bool = False
    input_activation: str = ""


#: Nothing around the product.
PLAIN = Fusion()


@runtime_checkable
class LinearKernel(Protocol):
    """A way to multiply on one platform."""

    name: ClassVar[str]

    def reject(
        self, scheme: LinearScheme, out_features: int, in_features: int, dtype: str, info: DeviceInfo
    ) -> list[str]: ...
    def pack(self, tensors: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """Turn loaded tensors into what ``apply`` reads. Called once after loading; may reuse memory."""

    def apply(self, x: torch.Tensor, packed: Mapping[str, torch.Tensor], bias: torch.Tensor | None) -> torch.Tensor:
        """Return ``x @ weight.T + bias`` for ``x`` of shape [tokens, in]."""


@runtime_checkable
class FusedLinearKernel(LinearKernel, Protocol):
    """A kernel that can take over what surrounds a product. The core composes whatever a kernel does not fuse."""

    def fuses(self, fusion: Fusion, scheme: LinearScheme, bias: bool) -> bool:
        """Return whether ``apply_fused`` takes all of ``fusion`` for layers of ``scheme``, with or without bias."""

    def apply_fused(
        self,
        x: torch.Tensor,
        packed: Mapping[str, torch.Tensor],
        bias: torch.Tensor | None,
        fusion: Fusion,
        norm_weight: torch.Tensor | None,
        residual: torch.Tensor | None,
    ) -> torch.Tensor:
        """Return ``residual + activation(norm(x) @ weight.T + bias)``.

        Args:
            x: [tokens, in]; not overwritten.
            packed: what ``pack`` returned.
            bias: [out], or ``None``.
            fusion: as accepted by ``fuses``.
            norm_weight: [in] where ``fusion.norm`` is set: in float32 for a wide norm, else in ``x``'s dtype.
            residual: [tokens, out], may be overwritten and returned. ``None`` adds nothing, also where
                ``fusion.residual`` is set: of ranks that sum their results only one adds it.
        """
