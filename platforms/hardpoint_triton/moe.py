"""Mixture of experts: which way to run the experts for a number of tokens, decided by shapes alone."""

from __future__ import annotations

from typing import Final

import torch

from hardpoint_triton.moe_grouped_kernels import Tile, Tiles, group_experts
from hardpoint_triton.moe_stream_kernels import stream_experts

#: Pairs of token and expert up to which the experts' rows stream through vector products.
STREAMED_PAIRS: Final = 32


def moe(
    x: torch.Tensor,
    weights: torch.Tensor,
    ids: torch.Tensor,
    gate_up: torch.Tensor,
    down: torch.Tensor,
    activation: str = "silu",
    gate_up_bias: torch.Tensor | None = None,
    down_bias: torch.Tensor | None = None,
    alpha: float = 1.702,
    limit: float = 7.0,
    first_expert: int = 0,
    residual: torch.Tensor | None = None,
) -> torch.Tensor:
    """See ``hardpoint.ops.moe.moe``. Waits for nothing on the device; every shape follows from those of the inputs."""
    if x.shape[0] == 0:
        return torch.empty_like(x)
    x = x if x.stride(1) == 1 else x.contiguous()
    if residual is not None and residual.stride(1) != 1:
        residual = residual.contiguous()
    rest = (gate_up, down, activation, gate_up_bias, down_bias, alpha, limit, first_expert, residual)
    weights, ids = weights.contiguous(), ids.contiguous()
    if ids.numel() <= STREAMED_PAIRS:
        return stream_experts(x, weights, ids, *rest)
    return group_experts(x, weights, ids, *rest, tiles_for(ids.numel(), gate_up.shape[0], x.dtype))


def tiles_for(pairs: int, experts: int, dtype: torch.dtype) -> Tiles:
    """Return the tiles for a number of pairs: as many pairs as an expert gets on average, up to what a program holds."""
    load = pairs / experts
    if dtype.itemsize == 4:
        tile = Tile(16 if load <= 32 else 64, 32, 32, 4, 2)
        return Tiles(tile, tile)
    if load <= 12:
        return Tiles(Tile(16, 64, 128, 4, 3), Tile(16, 64, 128, 4, 4))
    if load <= 24:
        return Tiles(Tile(32, 64, 128, 4, 3), Tile(32, 64, 128, 4, 4))
    if load <= 96:
        return Tiles(Tile(64, 64, 64, 4, 4), Tile(64, 128, 64, 4, 4))
    return Tiles(Tile(128, 128, 64, 8, 4), Tile(128, 256, 64, 8, 4))
