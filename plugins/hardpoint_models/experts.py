"""Experts that a checkpoint stores one by one, quantized or not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch

from hardpoint.contract.quant import DENSE, LinearScheme, OnlineFormat, QuantFormat
from hardpoint.layers import Experts, ModelBuild, Piece, Source
from hardpoint.layers.parameters import along, copied, whole


def single_experts(
    build: ModelBuild, experts: Experts, path: str, names: tuple[str, str, str], inner: int
) -> Iterator[tuple[tuple[Piece, ...], tuple[Piece, ...]]]:
    """Yield the pieces that fill ``gate_up`` and ``down`` from ``{path}.{expert}.{name}.weight``.

    There is one way for each name that a quantized checkpoint's scales may have.

    Args:
        build: the model being built.
        experts: what is filled.
        path: of the list of experts in the checkpoint.
        names: of the gate, up and down projections.
        inner: the experts' whole inner size.
    """
    hidden = build.config["hidden_size"]
    start, stop = experts.start, experts.stop
    mine = stop - start
    for spelling in range(_spellings(build, f"{path}.0.{names[0]}", (inner, hidden))):
        gate_up: list[Piece] = []
        down: list[Piece] = []
        for expert in range(experts.gate_up.shape[0]):
            for half, name in enumerate(names[:2]):
                target = experts.gate_up[expert, half * mine : (half + 1) * mine]
                single = f"{path}.{expert}.{name}"
                gate_up.append(_piece(build, target, single, (inner, hidden), 0, start, stop, spelling))
            target, single = experts.down[expert], f"{path}.{expert}.{names[2]}"
            down.append(_piece(build, target, single, (hidden, inner), 1, start, stop, spelling))
        yield tuple(gate_up), tuple(down)


def _stored(build: ModelBuild, path: str) -> LinearScheme:
    """Return how the checkpoint stores an expert; one that is quantized while it loads is stored dense."""
    if build.quant is None or isinstance(build.quant, OnlineFormat):
        return DENSE
    return build.quant.scheme(path)


def _spellings(build: ModelBuild, path: str, shape: tuple[int, int]) -> int:
    scheme = _stored(build, path)
    if build.quant is None or scheme == DENSE:
        return 1
    return max(1 + len(spec.also) for spec in build.quant.tensors(scheme, *shape).values())


def _piece(
    build: ModelBuild,
    target: torch.Tensor,
    path: str,
    shape: tuple[int, int],
    axis: int,
    start: int,
    stop: int,
    spelling: int,
) -> Piece:
    scheme = _stored(build, path)
    if build.quant is None or scheme == DENSE:
        return copied(target, f"{path}.weight", shape, along(shape, axis, start, stop))
    specs = build.quant.tensors(scheme, *shape)
    names = {suffix: (suffix, *spec.also) for suffix, spec in specs.items()}
    sources = tuple(
        Source(f"{path}.{names[suffix][min(spelling, len(spec.also))]}", spec.shape, whole(spec.shape))
        for suffix, spec in specs.items()
    )
    return Piece(target, sources, _dequantizer(build.quant, scheme, tuple(specs), build.dtype, axis, start, stop))


def _dequantizer(
    quant: QuantFormat,
    scheme: LinearScheme,
    suffixes: tuple[str, ...],
    dtype: torch.dtype,
    axis: int,
    start: int,
    stop: int,
) -> Callable[..., torch.Tensor]:
    def dequantize(*tensors: torch.Tensor) -> torch.Tensor:
        stored: Mapping[str, torch.Tensor] = dict(zip(suffixes, tensors, strict=True))
        return quant.dequantize(scheme, stored, dtype).narrow(axis, start, stop - start)

    return dequantize
