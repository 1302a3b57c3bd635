"""Experts that a checkpoint stores one by one, quantized or not."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from hardpoint.contract.quant import LinearScheme, QuantFormat
from hardpoint.layers import Experts, ModelBuild, Piece, Source
from hardpoint.layers.parameters import along, copied, whole


def single_experts(
    build: ModelBuild, experts: Experts, path: str, names: tuple[str, str, str], inner: int
) -> tuple[tuple[Piece, ...], tuple[Piece, ...]]:
    """Return the pieces that fill ``gate_up`` and ``down`` from ``{path}.{expert}.{name}.weight``.

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
    gate_up: list[Piece] = []
    down: list[Piece] = []
    for expert in range(experts.gate_up.shape[0]):
        for half, name in enumerate(names[:2]):
            target = experts.gate_up[expert, half * mine : (half + 1) * mine]
            gate_up.append(_piece(build, target, f"{path}.{expert}.{name}", (inner, hidden), 0, start, stop))
        target = experts.down[expert]
        down.append(_piece(build, target, f"{path}.{expert}.{names[2]}", (hidden, inner), 1, start, stop))
    return tuple(gate_up), tuple(down)


def _piece(
    build: ModelBuild, target: torch.Tensor, path: str, shape: tuple[int, int], axis: int, start: int, stop: int
) -> Piece:
    scheme = None if build.quant is None else build.quant.scheme(path)
    if build.quant is None or scheme is None or scheme.weight == "dense":
        return copied(target, f"{path}.weight", shape, along(shape, axis, start, stop))
    specs = build.quant.tensors(scheme, *shape)
    sources = tuple(Source(f"{path}.{suffix}", spec.shape, whole(spec.shape)) for suffix, spec in specs.items())
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
