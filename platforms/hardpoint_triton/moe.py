"""Mixture of experts: which way to run the experts for a number of tokens, decided by shapes alone."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Final

import torch
import torch.nn.functional as F

from hardpoint_triton.moe_expert_kernels import Experts
from hardpoint_triton.moe_grouped_kernels import Tile, Tiles, group_experts
from hardpoint_triton.moe_routing_kernels import route
from hardpoint_triton.moe_stream_kernels import norm_and_score, stream_experts
from hardpoint_triton.norm_kernels import rms_norm

#: Pairs of token and expert up to which the experts' rows stream through vector products.
STREAMED_PAIRS: Final = 32
#: Compute capability from which NVIDIA's chips read 8-bit floats.
FIRST_WITH_CODES: Final = (8, 9)
#: Hidden elements up to which one program norms a token while it multiplies by the router.
ROUTED_HIDDEN: Final = 8192
#: Tokens up to which every program of the router's product norms its token for itself.
ROUTED_TOKENS: Final = 16


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
    gate_up_scale: torch.Tensor | None = None,
    down_scale: torch.Tensor | None = None,
) -> torch.Tensor:
    """See ``hardpoint.ops.moe.moe``. Waits for nothing on the device; every shape follows from those of the inputs."""
    experts = Experts(
        gate_up, down, activation, gate_up_bias, down_bias, alpha, limit, first_expert, gate_up_scale, down_scale
    )
    return _run(_rows(x), weights.contiguous(), ids.contiguous(), experts, residual)


def routed_moe(
    x: torch.Tensor,
    router: torch.Tensor,
    gate_up: torch.Tensor,
    down: torch.Tensor,
    k: int,
    renormalize: bool,
    score: str = "softmax",
    activation: str = "silu",
    *,
    norm_weight: torch.Tensor | None = None,
    eps: float = 1e-6,
    offset: float = 0.0,
    router_bias: torch.Tensor | None = None,
    round_weights: bool = False,
    gate_up_bias: torch.Tensor | None = None,
    down_bias: torch.Tensor | None = None,
    alpha: float = 1.702,
    limit: float = 7.0,
    residual: torch.Tensor | None = None,
    gate_up_scale: torch.Tensor | None = None,
    down_scale: torch.Tensor | None = None,
) -> torch.Tensor:
    """See ``hardpoint.ops.moe.routed_moe``."""
    experts = Experts(gate_up, down, activation, gate_up_bias, down_bias, alpha, limit, 0, gate_up_scale, down_scale)
    x, (tokens, hidden) = _rows(x), x.shape
    if 0 < tokens <= ROUTED_TOKENS and hidden <= ROUTED_HIDDEN:
        normed, logits = norm_and_score(x, router, router_bias, norm_weight, eps, offset)
    else:
        normed = x if norm_weight is None else rms_norm(x, norm_weight, eps, offset)
        logits = F.linear(normed, router, router_bias)
    weights, ids = route(logits, k, renormalize, score, x.dtype if round_weights else torch.float32)
    return _run(normed, weights, ids, experts, residual)


def _run(
    x: torch.Tensor, weights: torch.Tensor, ids: torch.Tensor, experts: Experts, residual: torch.Tensor | None
) -> torch.Tensor:
    residual = None if residual is None else _rows(residual)
    if experts.gate_up_scale is not None and not _reads_codes(x.device):
        experts = _dense(experts, x.dtype)
    pairs = ids.numel()
    if pairs == 0:
        return torch.empty_like(x)
    if pairs <= STREAMED_PAIRS:
        return stream_experts(x, weights, ids, experts, residual)
    return group_experts(x, weights, ids, experts, residual, tiles_for(pairs, experts))


@cache
def _reads_codes(device: torch.device) -> bool:
    """Return whether Triton knows E4M3 on ``device``; its interpreter does."""
    if device.type != "cuda":
        return True
    return torch.version.hip is None and torch.cuda.get_device_capability(device) >= FIRST_WITH_CODES


def _dense(experts: Experts, dtype: torch.dtype) -> Experts:
    """Return experts whose weights are what their codes mean: slow, where nothing else reads them."""
    made: dict[str, torch.Tensor | None] = {}
    for name in ("gate_up", "down"):
        codes, scale = getattr(experts, name), getattr(experts, f"{name}_scale")
        made |= {name: (codes.float() * scale.unsqueeze(-1)).to(dtype), f"{name}_scale": None}
    return replace(experts, **made)  # type: ignore[arg-type]


def _rows(x: torch.Tensor) -> torch.Tensor:
    """Return ``x`` with rows whose elements follow each other."""
    return x if x.stride(1) == 1 else x.contiguous()


def tiles_for(pairs: int, experts: Experts) -> Tiles:
    """Return the tiles for a number of pairs: as many pairs as an expert gets on average, up to what a program holds."""
    count, hidden, inner = experts.down.shape
    load = pairs / count
    if experts.down.itemsize == 4:
        tile = Tile(16 if load <= 32 else 64, 32, 32, 4, 2)
        return Tiles(tile, tile)
    if experts.down.itemsize == 1:
        size = 16 if load <= 12 else 32 if load <= 24 else 64
        if load <= 96:
            return Tiles(_deep(Tile(size, 64, 128, 4, 4), hidden), _deep(Tile(size, 128, 128, 4, 4), inner))
        return Tiles(_deep(Tile(128, 128, 128, 8, 3), hidden), _deep(Tile(128, 256, 128, 8, 3), inner))
    if load <= 24:
        size = 16 if load <= 12 else 32
        return Tiles(_deep(Tile(size, 64, 128, 4, 3), hidden), _deep(Tile(size, 64, 128, 4, 4), inner))
    if load <= 96:
        return Tiles(Tile(64, 64, 64, 4, 4), Tile(64, 128, 64, 4, 4))
    return Tiles(Tile(128, 128, 64, 8, 4), Tile(128, 256, 64, 8, 4))


def _deep(tile: Tile, size: int) -> Tile:
    """Return the tile with half of its depth and twice its stages where its depth does not divide ``size``."""
    return tile if size % tile.depth == 0 else replace(tile, depth=tile.depth // 2, stages=2 * tile.stages)
