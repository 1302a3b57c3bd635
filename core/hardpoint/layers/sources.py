"""Where the tensors of a linear layer are found in a checkpoint, and which part of each is this rank's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from hardpoint.contract.errors import ConfigError
from hardpoint.contract.quant import LinearScheme, OnlineFormat, TensorSpec
from hardpoint.layers.parameters import Parameter, Piece, Source, whole


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


@dataclass(frozen=True, slots=True)
class LinearSources:
    """Where the tensors of a (merged) linear layer come from.

    Attributes:
        path: name of the layer, for messages.
        parts: the stacked layers.
        columns: input features of the whole layer.
        column_range: those of this rank.
        fused: name under which some checkpoints store all parts as one layer.
    """

    path: str
    parts: tuple[Part, ...]
    columns: int
    column_range: tuple[int, int]
    fused: str | None

    def local_shape(self, suffix: str, spec: TensorSpec, part: Part) -> tuple[int, ...]:
        """Return the shape of this rank's share of a part's stored tensor."""
        region = self._region(f"{part.paths[0]}.{suffix}", spec, spec.shape, part.start, part.stop, part.rows)
        return tuple(each.stop - each.start for each in region)

    def ways(
        self, suffix: str, specs: list[TensorSpec], tensor: torch.Tensor, axis: int | None
    ) -> tuple[tuple[Piece, ...], ...]:
        """Return every way to fill ``tensor``, in which the parts follow each other along ``axis``."""
        suffixes = (suffix, *specs[0].also)
        spellings = len(self.parts[0].paths)
        ways: list[list[Piece]] = [[] for _ in range((spellings + (self.fused is not None)) * len(suffixes))]
        offset = row = 0
        total = sum(part.rows for part in self.parts)
        for index, (part, spec) in enumerate(zip(self.parts, specs, strict=True)):
            if axis is None:
                target = tensor[index]
            else:
                size = self.local_shape(suffix, spec, part)[axis]
                target = tensor.narrow(axis, offset, size)
                offset += size
            names = [f"{path}.{each}" for path in part.paths for each in suffixes]
            for way, name in zip(ways, names, strict=False):
                region = self._region(name, spec, spec.shape, part.start, part.stop, part.rows)
                way.append(Piece(target, (Source(name, spec.shape, region),)))
            for way, each in zip(ways[len(names) :], suffixes, strict=False):
                name = f"{self.fused}.{each}"
                shape = _of_rows(spec, total, part.rows)
                region = self._region(name, spec, shape, row + part.start, row + part.stop, total)
                way.append(Piece(target, (Source(name, shape, region),)))
            row += part.rows
        return tuple(tuple(way) for way in ways)

    def online(
        self, form: OnlineFormat, scheme: LinearScheme, tensors: Mapping[str, torch.Tensor], dtype: torch.dtype
    ) -> Parameter:
        """Return the parameter that stands for all ``tensors`` of a layer whose dense weight is quantized as it is read."""
        name = str(dtype).removeprefix("torch.")
        dense = [dense_spec(part.rows, self.columns, name) for part in self.parts]
        first = tensors["weight"]
        ways = self.ways("weight", dense, first, 0)
        others = [suffix for suffix in tensors if suffix != "weight"]

        def quantize(weight: torch.Tensor) -> tuple[torch.Tensor, ...]:
            made = form.quantize(scheme, weight)
            return (made["weight"], *(made[suffix] for suffix in others))

        def piece(plain: Piece, part: Part, offset: int) -> Piece:
            also = tuple(tensors[suffix].narrow(0, offset, part.stop - part.start) for suffix in others)
            return Piece(plain.target, plain.sources, quantize, also)

        offsets = [sum(p.stop - p.start for p in self.parts[:i]) for i in range(len(self.parts))]
        filled = tuple(tuple(map(piece, way, self.parts, offsets)) for way in ways)
        return Parameter(f"{self.path}.weight", first, filled, packed=True, source_dtype=dtype)

    def _region(
        self, name: str, spec: TensorSpec, shape: tuple[int, ...], start: int, stop: int, rows: int
    ) -> tuple[slice, ...]:
        region = list(whole(shape))
        if spec.out_axis is not None:
            region[spec.out_axis] = _stored(name, start, stop, rows, shape[spec.out_axis], spec.out_pack)
        if spec.in_axis is not None:
            region[spec.in_axis] = _stored(name, *self.column_range, self.columns, shape[spec.in_axis], spec.in_pack)
        return tuple(region)


def dense_spec(out_features: int, in_features: int, dtype: str) -> TensorSpec:
    """Return the stored weight of a layer that is not quantized."""
    return TensorSpec(shape=(out_features, in_features), dtype=dtype, out_axis=0, in_axis=1)


def _of_rows(spec: TensorSpec, rows: int, of: int) -> tuple[int, ...]:
    """Return the shape of a tensor for ``rows`` features where ``spec`` has it for ``of``."""
    shape = list(spec.shape)
    if spec.out_axis is not None:
        stored = shape[spec.out_axis]
        shape[spec.out_axis] = -(-rows // spec.out_pack) if spec.out_pack > 1 else stored * rows // of
    return tuple(shape)


def _stored(name: str, start: int, stop: int, features: int, stored: int, pack: int) -> slice:
    """Turn a range of features into a range of stored elements, which may each hold or span several features."""
    if pack > 1:
        per, size, last = pack, 1, -(-stop // pack)
    else:
        common = math.gcd(features, stored)
        per, size = features // common, stored // common
        last = stop // per * size
    if start % per or (stop % per and stop != features):
        raise ConfigError(
            f"{name}: features {start}:{stop} of {features} cut through its stored elements ({per} features in {size}); "
            "use a smaller --tensor-parallel-size"
        )
    return slice(start // per * size, last)
