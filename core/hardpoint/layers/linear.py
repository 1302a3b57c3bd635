"""Linear layers: any quantization format on any kernel, split over ranks by rows or by columns."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F

from hardpoint.contract.errors import ConfigError
from hardpoint.contract.quant import DENSE, Fusion, LinearScheme, TensorSpec
from hardpoint.layers.fusion import surround
from hardpoint.layers.parameters import Parameter, Piece, Source, whole

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


def dense_specs(out_features: int, in_features: int, dtype: str) -> Mapping[str, TensorSpec]:
    """Return the stored tensors of a layer that is not quantized."""
    return {"weight": TensorSpec(shape=(out_features, in_features), dtype=dtype, out_axis=0, in_axis=1)}


@dataclass(frozen=True, slots=True)
class Part:
    """One of the checkpoint's layers inside a (merged) linear layer.

    Attributes:
        paths: names of the layer, one for each way in which checkpoints spell it.
        rows: output features of the whole layer.
        start, stop: those of this rank.
    """

    paths: tuple[str, ...]
    rows: int
    start: int
    stop: int


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
    """

    __slots__ = (
        "_all_reduce",
        "_run",
        "_runs",
        "_stacks",
        "adds",
        "bias",
        "in_features",
        "kernel",
        "out_features",
        "packed",
        "parts",
        "path",
        "scheme",
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
    ) -> None:
        self.path = fused or parts[0].paths[0]
        self.parts = parts
        self.scheme = _common_scheme(build.quant, parts)
        self.out_features = sum(part.stop - part.start for part in parts)
        self.in_features = column_range[1] - column_range[0]
        self.tensors: dict[str, torch.Tensor] = {}
        self._stacks: dict[str, int | None] = {}
        self.packed: Mapping[str, torch.Tensor] = {}
        self._all_reduce = build.comm.all_reduce if reduce and build.comm.size > 1 else None
        self.bias: torch.Tensor | None = None
        sources = _Sources(parts, columns, column_range, fused)
        for suffix in self._specs(build, parts[0].rows, columns):
            self._declare(build, sources, suffix)
        # Of ranks that sum their results exactly one adds the bias.
        if bias and reduce and build.comm.rank > 0:
            build.elsewhere.update(f"{path}.bias" for part in parts for path in part.paths)
        elif bias:
            self.bias = build.empty((self.out_features,))
            specs = [TensorSpec(shape=(part.rows,), dtype=build.dtype_name) for part in parts]
            ways = sources.ways("bias", specs, self.bias, 0)
            build.parameters.append(Parameter(f"{self.path}.bias", self.bias, ways, fill="zeros"))
        self.kernel, self._runs = build.choose_kernel(self)
        # Of ranks that sum their results exactly one adds the residual stream too.
        self.adds = not reduce or build.comm.rank == 0
        fusion = Fusion(norm=None if norm is None else norm.spec, activation=activation, residual=residual)
        self._run = surround(self.kernel, self._runs, fusion, norm, build.ops, bias=self.bias is not None)
        build.linears.append(self)

    def __call__(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        """Multiply ``x`` [T, in of this rank]; the result is [T, out of this rank], whole if the layer reduces.

        ``residual`` [T, out] belongs to a layer made with ``residual=True`` and may be overwritten.
        """
        y = self._run(x, self.packed, self.bias, residual if self.adds else None)
        return y if self._all_reduce is None else self._all_reduce(y)

    def pack(self, build: ModelBuild) -> None:
        """Hand the loaded tensors to the kernel, dequantized if it is the dense one. Called once."""
        if self._runs != self.scheme:
            tensors = {"weight": self._dequantize(build)}
        else:
            tensors = {suffix: self._joined(suffix) for suffix in self.tensors}
        self.tensors = {}
        self.packed = self.kernel.pack(tensors)

    def _specs(self, build: ModelBuild, rows: int, columns: int) -> Mapping[str, TensorSpec]:
        if build.quant is None or self.scheme.weight == "dense":
            return dense_specs(rows, columns, build.dtype_name)
        return build.quant.tensors(self.scheme, rows, columns)

    def _declare(self, build: ModelBuild, sources: _Sources, suffix: str) -> None:
        specs = [self._specs(build, part.rows, sources.columns)[suffix] for part in self.parts]
        local = [
            sources.local_shape(spec, part.start, part.stop, part.rows)
            for spec, part in zip(specs, self.parts, strict=True)
        ]
        axis = specs[0].out_axis
        if axis is None:
            shape = (len(self.parts), *local[0])
        else:
            rows = sum(each[axis] for each in local)
            shape = (*local[0][:axis], rows, *local[0][axis + 1 :])
        tensor = build.empty(shape, getattr(torch, specs[0].dtype))
        if specs[0].optional:
            tensor.zero_()
        self.tensors[suffix] = tensor
        self._stacks[suffix] = axis
        ways = sources.ways(suffix, specs, tensor, axis)
        build.parameters.append(
            Parameter(f"{self.path}.{suffix}", tensor, ways, optional=specs[0].optional, packed=True)
        )

    def _joined(self, suffix: str) -> torch.Tensor:
        """Return a stored tensor for all parts; a tensor that belongs to whole parts must be the same in each."""
        tensor = self.tensors[suffix]
        if self._stacks[suffix] is not None:
            return tensor
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
                axis = self._stacks[suffix]
                if axis is None:
                    mine[suffix] = tensor[index]
                    continue
                share = tensor.shape[axis] * (part.stop - part.start) // self.out_features
                mine[suffix] = tensor.narrow(axis, offsets[suffix], share)
                offsets[suffix] += share
            weights.append(build.quant.dequantize(self.scheme, mine, build.dtype))
        return weights[0] if len(weights) == 1 else torch.cat(weights)


@dataclass(frozen=True, slots=True)
class _Sources:
    """Where the tensors of a linear layer are found in a checkpoint."""

    parts: tuple[Part, ...]
    columns: int
    column_range: tuple[int, int]
    fused: str | None

    def local_shape(self, spec: TensorSpec, start: int, stop: int, rows: int) -> tuple[int, ...]:
        shape = list(spec.shape)
        if spec.out_axis is not None:
            shape[spec.out_axis] = shape[spec.out_axis] * (stop - start) // rows
        if spec.in_axis is not None:
            first, last = self.column_range
            shape[spec.in_axis] = shape[spec.in_axis] * (last - first) // self.columns
        return tuple(shape)

    def ways(
        self, suffix: str, specs: list[TensorSpec], tensor: torch.Tensor, axis: int | None
    ) -> tuple[tuple[Piece, ...], ...]:
        """Return every way to fill ``tensor``, in which the parts follow each other along ``axis``."""
        spellings = len(self.parts[0].paths)
        ways: list[list[Piece]] = [[] for _ in range(spellings + (self.fused is not None))]
        offset = row = 0
        total = sum(part.rows for part in self.parts)
        for index, (part, spec) in enumerate(zip(self.parts, specs, strict=True)):
            local = self.local_shape(spec, part.start, part.stop, part.rows)
            if axis is None:
                target = tensor[index]
            else:
                target = tensor.narrow(axis, offset, local[axis])
                offset += local[axis]
            for way, path in zip(ways, part.paths, strict=False):
                source = self._source(f"{path}.{suffix}", spec, part.start, part.stop, part.rows, spec.shape)
                way.append(Piece(target, (source,)))
            if self.fused is not None:
                shape = list(spec.shape)
                if spec.out_axis is not None:
                    shape[spec.out_axis] = shape[spec.out_axis] * total // part.rows
                source = self._source(
                    f"{self.fused}.{suffix}", spec, row + part.start, row + part.stop, total, tuple(shape)
                )
                ways[-1].append(Piece(target, (source,)))
            row += part.rows
        return tuple(tuple(way) for way in ways)

    def _source(self, name: str, spec: TensorSpec, start: int, stop: int, rows: int, shape: tuple[int, ...]) -> Source:
        region = list(whole(shape))
        if spec.out_axis is not None:
            region[spec.out_axis] = _scaled(name, start, stop, rows, shape[spec.out_axis])
        if spec.in_axis is not None:
            region[spec.in_axis] = _scaled(name, *self.column_range, self.columns, shape[spec.in_axis])
        return Source(name, shape, tuple(region))


def _scaled(name: str, start: int, stop: int, features: int, stored: int) -> slice:
    """Turn a range of features into a range of stored elements, which may each hold or span several features."""
    common = math.gcd(features, stored)
    per, size = features // common, stored // common
    if start % per or stop % per:
        raise ConfigError(
            f"{name}: features {start}:{stop} of {features} cut through its stored elements ({per} features in {size}); "
            "use a smaller --tensor-parallel-size"
        )
    return slice(start // per * size, stop // per * size)


def _common_scheme(quant: QuantFormat | None, parts: tuple[Part, ...]) -> LinearScheme:
    if quant is None:
        return DENSE
    schemes = {part.paths[0]: quant.scheme(part.paths[0]) for part in parts}
    first = next(iter(schemes.values()))
    if any(scheme != first for scheme in schemes.values()):
        listed = "; ".join(f"{path}: {scheme.weight}" for path, scheme in schemes.items())
        raise ConfigError(f"layers that run as one product are quantized differently in this checkpoint ({listed})")
    return first
