"""Which part of which checkpoint tensor fills which part of which parameter.

A model states its parameters and their sources while it is built; loading and random filling only follow the list.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

Region = tuple[slice, ...]
Fill = Literal["random", "zeros", "ones"]


@dataclass(frozen=True, slots=True)
class Source:
    """A part of one checkpoint tensor.

    Attributes:
        name: of the tensor in the checkpoint.
        shape: of the whole tensor.
        region: one slice per axis, without steps: what this rank reads.
    """

    name: str
    shape: tuple[int, ...]
    region: Region


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a parameter and where it comes from.

    Attributes:
        target: view of the parameter that is filled.
        sources: what is read; exactly one unless ``convert`` combines several.
        convert: makes a tensor of ``target``'s shape from the sources, or one for each target; ``None`` copies the only one.
        also: further targets, filled by the same conversion.
    """

    target: torch.Tensor
    sources: tuple[Source, ...]
    convert: Callable[..., torch.Tensor | tuple[torch.Tensor, ...]] | None = None
    also: tuple[torch.Tensor, ...] = ()

    def fill(self, *parts: torch.Tensor) -> None:
        """Write what was read from the sources."""
        value = parts if self.convert is None else self.convert(*parts)
        values = (value,) if isinstance(value, torch.Tensor) else value
        for target, each in zip((self.target, *self.also), values, strict=True):
            target.copy_(each)


@dataclass(frozen=True, slots=True)
class Parameter:
    """One tensor of a model on one rank.

    Attributes:
        name: as the checkpoint calls it, for messages.
        tensor: its storage.
        alternatives: ways to fill it, by the layouts in which checkpoints come; the first one whose tensors all exist is
            taken. Each way covers the whole tensor.
        fill: what ``--load-format dummy`` puts in it.
        optional: whether a checkpoint may leave it out; then the tensor keeps what it was made with.
        packed: whether a linear kernel takes the tensor over after loading.
        source_dtype: element type of the sources, where ``convert`` makes another one of it.
    """

    name: str
    tensor: torch.Tensor
    alternatives: tuple[tuple[Piece, ...], ...]
    fill: Fill = "random"
    optional: bool = False
    packed: bool = False
    source_dtype: torch.dtype | None = None


def whole(shape: tuple[int, ...]) -> Region:
    """Return the region that is all of a tensor."""
    return tuple(slice(0, n) for n in shape)


def along(shape: tuple[int, ...], axis: int | None, start: int, stop: int) -> Region:
    """Return the region ``start:stop`` along one axis; all of the tensor when ``axis`` is ``None``."""
    return tuple(slice(start, stop) if i == axis else slice(0, n) for i, n in enumerate(shape))


def copied(target: torch.Tensor, name: str, shape: tuple[int, ...], region: Region | None = None) -> Piece:
    """Return the piece that copies a region (by default all) of one checkpoint tensor."""
    return Piece(target, (Source(name, shape, whole(shape) if region is None else region),))
