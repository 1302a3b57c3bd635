"""Linear layers: any quantization format on any kernel, split over ranks by rows or by columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F

from hardpoint.contract.errors import ConfigError
from hardpoint.contract.quant import DENSE, Fusion, LinearScheme, OnlineFormat, TensorSpec
from hardpoint.layers.fusion import fuses, surround
from hardpoint.layers.parameters import Parameter
from hardpoint.layers.sources import LinearSources, Part, dense_spec

if TYPE_CHECKING:
    from hardpoint.contract.device import DeviceInfo
    from hardpoint.contract.quant import QuantFormat
    from hardpoint.layers.build import ModelBuild
    from hardpoint.layers.norm import RMSNorm


class TorchLinear:
    """The reference kernel: a dense product by torch."""

    name: ClassVar[str] = "torch"

    def reject(
        self, scheme: LinearScheme, out_features: int, in_features: int, dtype: str, info: DeviceInfo
    ) -> list[str]:
        """Refuse whatever is quantized."""
        return [] if scheme.weight == "dense" else [f"reads dense weights only, not {scheme.weight}"]

    def pack(self, tensors: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """Return the tensors as they are."""
        return tensors

    def apply(self, x: torch.Tensor, packed: Mapping[str, torch.Tensor], bias: torch.Tensor | None) -> torch.Tensor:
        """Return ``x @ weight.T + bias``."""
        return F.linear(x, packed["weight"], bias)


class Linear:
    """``residual + activation(norm(x) W^T + b)`` on one rank, where W may be several layers of the checkpoint stacked.

    All but the product is optional. A kernel that fuses what surrounds the product gets it whole; else it is composed here.

    Args:
        build: the model being built.
        parts: the stacked layers and this rank's rows of each.
        columns: input features of the whole layer.
        column_range: those of this rank.
        bias: whether the layer has one.
        reduce: whether partial results are summed over ranks (the layer is split by columns).
        fused: name under which some checkpoints store all parts as one layer.
        norm: of the input; the caller hands in what is not normed.
        activation: see :class:`~hardpoint.contract.quant.Fusion`; the output has half of the rows.
        residual: whether calls add to the residual stream.
        deferrable: whether the layer behind takes an output that has not passed the activation.
        input_activation: what a kernel may apply to an input of twice the features; whether it does is ``takes_whole``.
    """

    __slots__ = (
        "_all_reduce",
        "_run",
        "_sources",
        "_specs",
        "adds",
        "bias",
        "in_features",
        "kernel",
        "out_features",
        "packed",
        "parts",
        "path",
        "runs",
        "scheme",
        "takes_whole",
        "tensors",
    )  # fmt: skip

    def __init__(
        self,
        build: ModelBuild,
        parts: tuple[Part, ...],
        columns: int,
        column_range: tuple[int, int],
        *,
        bias: bool = False,
        reduce: bool = False,
        fused: str | None = None,
        norm: RMSNorm | None = None,
        activation: str = "",
        residual: bool = False,
        deferrable: bool = False,
        input_activation: str = "",
    ) -> None:
        self.path = fused or parts[0].paths[0]
        self.parts = parts
        self.scheme = _common_scheme(build.quant, parts)
        self.out_features = sum(part.stop - part.start for part in parts)
        self.in_features = column_range[1] - column_range[0]
        self.tensors: dict[str, torch.Tensor] = {}
        self._specs = [_specs(build, self.scheme, part.rows, columns) for part in parts]
        self.packed: Mapping[str, torch.Tensor] = {}
        self._all_reduce = build.comm.all_reduce if reduce and build.comm.size > 1 else None
        self.bias: torch.Tensor | None = None
        self._sources = LinearSources(self.path, parts, columns, column_range, fused)
        for suffix in self._specs[0]:
            self.tensors[suffix] = self._storage(build, suffix)
        if isinstance(build.quant, OnlineFormat) and self.scheme != DENSE:
            build.parameters.append(self._sources.online(build.quant, self.scheme, self.tensors, build.dtype))
        else:
            build.parameters.extend(self._stored(suffix) for suffix in self.tensors)
        # Of ranks that sum their results exactly one adds the bias.
        if bias and reduce and build.comm.rank > 0:
            build.elsewhere.update(f"{path}.bias" for part in parts for path in part.paths)
        elif bias:
            self.bias = build.empty((self.out_features,))
            specs = [TensorSpec(shape=(part.rows,), dtype=build.dtype_name) for part in parts]
            ways = self._sources.ways("bias", specs, self.bias, 0)
            build.parameters.append(Parameter(f"{self.path}.bias", self.bias, ways, fill="zeros"))
        self.kernel, self.runs = build.choose_kernel(self, as_stored=self._groups_are_whole())
        # Of ranks that sum their results exactly one adds the residual stream too.
        self.adds = not reduce or build.comm.rank == 0
        spec = None if norm is None else norm.spec
        fusion = Fusion(norm=spec, activation=activation, residual=residual, deferrable=deferrable)
        whole = replace(fusion, input_activation=input_activation)
        self.takes_whole = bool(input_activation) and fuses(self.kernel, self.runs, whole, self.bias is not None)
        fusion = whole if self.takes_whole else fusion
        self._run = surround(self.kernel, self.runs, fusion, norm, build.ops, bias=self.bias is not None)
        build.linears.append(self)

    def __call__(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        """Multiply ``x`` [T, in of this rank]; the result is [T, out of this rank], whole if the layer reduces.

        ``residual`` [T, out] belongs to a layer made with ``residual=True`` and may be overwritten.
        """
        y = self._run(x, self.packed, self.bias, residual if self.adds else None)
        return y if self._all_reduce is None else self._all_reduce(y)

    def pack(self, build: ModelBuild) -> None:
        """Hand the loaded tensors to the kernel, dequantized if it is the dense one. Called once."""
        if self.runs != self.scheme:
            tensors = {"weight": self._dequantize(build)}
        else:
            tensors = {suffix: self._joined(suffix) for suffix in self.tensors}
        self.tensors = {}
        self.packed = self.kernel.pack(tensors)

    def _storage(self, build: ModelBuild, suffix: str) -> torch.Tensor:
        """Return memory for one stored tensor of all parts, which follow each other along the outputs' axis."""
        specs = [each[suffix] for each in self._specs]
        local = [self._sources.local_shape(suffix, spec, part) for spec, part in zip(specs, self.parts, strict=True)]
        axis = specs[0].out_axis
        if axis is None:
            shape = (len(self.parts), *local[0])
        else:
            shape = (*local[0][:axis], sum(each[axis] for each in local), *local[0][axis + 1 :])
        tensor = build.empty(shape, getattr(torch, specs[0].dtype))
        return tensor.zero_() if specs[0].optional else tensor

    def _stored(self, suffix: str) -> Parameter:
        specs, tensor = [each[suffix] for each in self._specs], self.tensors[suffix]
        ways = self._sources.ways(suffix, specs, tensor, specs[0].out_axis)
        return Parameter(f"{self.path}.{suffix}", tensor, ways, optional=specs[0].optional, packed=True)

    def _groups_are_whole(self) -> bool:
        """Return whether no group of rows that shares a value holds rows of two parts."""
        packs = [spec.out_pack for spec in self._specs[0].values()]
        return all((part.stop - part.start) % pack == 0 for part in self.parts[:-1] for pack in packs)

    def _joined(self, suffix: str) -> torch.Tensor:
        """Return a stored tensor for all parts; one without an axis for them must be the same in each, or be repeated."""
        tensor, spec = self.tensors[suffix], self._specs[0][suffix]
        if spec.out_axis is not None:
            return tensor
        if spec.per_row:
            rows = torch.tensor([part.stop - part.start for part in self.parts], device=tensor.device)
            return tensor.repeat_interleave(rows, 0)
        first = tensor[0]
        if any(not torch.equal(first, other) for other in tensor[1:]):
            raise ConfigError(
                f"{self.path}: the merged layers differ in {suffix!r}, which kernel {self.kernel.name!r} takes once; "
                "use --linear-backend torch"
            )
        return first

    def _dequantize(self, build: ModelBuild) -> torch.Tensor:
        assert build.quant is not None
        weights, offsets = [], dict.fromkeys(self.tensors, 0)
        for index, part in enumerate(self.parts):
            mine: dict[str, torch.Tensor] = {}
            for suffix, tensor in self.tensors.items():
                spec = self._specs[index][suffix]
                if spec.out_axis is None:
                    mine[suffix] = tensor[index]
                    continue
                share = self._sources.local_shape(suffix, spec, part)[spec.out_axis]
                mine[suffix] = tensor.narrow(spec.out_axis, offsets[suffix], share)
                offsets[suffix] += share
            weights.append(build.quant.dequantize(self.scheme, mine, build.dtype))
        return weights[0] if len(weights) == 1 else torch.cat(weights)


def _specs(build: ModelBuild, scheme: LinearScheme, rows: int, columns: int) -> Mapping[str, TensorSpec]:
    if build.quant is None or scheme.weight == "dense":
        return {"weight": dense_spec(rows, columns, build.dtype_name)}
    return build.quant.tensors(scheme, rows, columns)


def _common_scheme(quant: QuantFormat | None, parts: tuple[Part, ...]) -> LinearScheme:
    if quant is None:
        return DENSE
    schemes = {part.paths[0]: quant.scheme(part.paths[0]) for part in parts}
    first = next(iter(schemes.values()))
    if any(scheme != first for scheme in schemes.values()):
        listed = "; ".join(f"{path}: {scheme.weight}" for path, scheme in schemes.items())
        raise ConfigError(f"layers that run as one product are quantized differently in this checkpoint ({listed})")
    return first
