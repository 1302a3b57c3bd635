"""Random weights, for measuring without a checkpoint."""

from __future__ import annotations

import math
import zlib
from typing import TYPE_CHECKING

import torch

from hardpoint.layers.parameters import Parameter, Source

if TYPE_CHECKING:
    from hardpoint.layers.build import ModelBuild

_SIZE = 1 << 24
_ROW_STEP = 97
_STD = 0.02
_FLOAT8 = torch.float8_e4m3fn


def random_weights(build: ModelBuild, seed: int) -> None:
    """Fill every parameter of a build: norms with ones, biases with zeros, all else normal with deviation 0.02.

    One table of random numbers is drawn; the element at (row, column) of a checkpoint tensor is the table's entry
    ``start + row * step + column`` with a start of its own for each tensor. So a value depends on the seed, the tensor's
    name and its place in the whole tensor only, ranks hold the parts of one and the same model, and filling is one copy at
    the memory's rate. Packed integer tensors get random bits, weights in 8-bit floats values of deviation one, the scale of a
    whole tensor a constant.
    """
    generator = torch.Generator(device="cpu").manual_seed(seed)
    table = (torch.randn(_SIZE, generator=generator) * _STD).to(build.device)
    tables = {torch.float32: table, build.dtype: table.to(build.dtype), _FLOAT8: (table / _STD).to(_FLOAT8)}
    for parameter in build.parameters:
        if parameter.fill == "ones":
            parameter.tensor.fill_(1.0)
        elif parameter.fill == "zeros" or parameter.optional:
            parameter.tensor.zero_()
        elif not parameter.tensor.is_floating_point():
            _random_bits(parameter)
        elif (dtype := parameter.source_dtype or parameter.tensor.dtype) in tables and _axes(parameter) > 0:
            _random_values(parameter, tables[dtype])
        else:
            parameter.tensor.copy_(torch.full_like(parameter.tensor, _STD, dtype=torch.float32))


def _random_values(parameter: Parameter, table: torch.Tensor) -> None:
    for piece in parameter.alternatives[0]:
        piece.fill(*(_view(source, table) for source in piece.sources))


def _axes(parameter: Parameter) -> int:
    return min(len(source.shape) for piece in parameter.alternatives[0] for source in piece.sources)


def _view(source: Source, table: torch.Tensor) -> torch.Tensor:
    """Return a source's region of the random tensor that its name stands for."""
    columns = source.shape[-1]
    rows = math.prod(source.shape[:-1])
    step = max(1, min(_ROW_STEP, (_SIZE - columns - 1) // max(rows, 1)))
    room = _SIZE - rows * step - columns
    start = zlib.crc32(source.name.encode()) % max(room, 1)
    strides = [1]
    for size in reversed(source.shape[1:]):
        strides.insert(0, step if len(strides) == 1 else strides[0] * size)
    first = start + sum(part.start * stride for part, stride in zip(source.region, strides, strict=True))
    return table.as_strided([part.stop - part.start for part in source.region], strides, first)


def _random_bits(parameter: Parameter) -> None:
    generator = torch.Generator(device="cpu").manual_seed(zlib.crc32(parameter.name.encode()))
    flat = parameter.tensor.view(torch.uint8)
    flat.copy_(torch.randint(0, 256, flat.shape, generator=generator, dtype=torch.uint8))
