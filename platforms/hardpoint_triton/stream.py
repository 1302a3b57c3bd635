"""Products of few rows with all that surrounds them: shapes of tiles, working memory, the call."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Final

import torch
import triton

from hardpoint_triton import dependent
from hardpoint_triton.stream_kernels import few_rows, one_row

if TYPE_CHECKING:
    from hardpoint.contract.quant import NormSpec

#: Name of a fused activation -> its number in the kernels.
ACTIVATIONS: Final = {"": 0, "silu_mul": 1, "gelu_mul": 2, "gelu_mul_exact": 3}
#: Addresses and sizes of input rows are multiples of this many elements, so that loads are 16 bytes of any type.
ALIGNMENT: Final = 16
#: Rows up to which :func:`stream` takes a product.
MOST_ROWS: Final = 64
#: Programs that run at the same time on one multiprocessor.
RESIDENT: Final = 2
#: Most programs that share a tile.
MOST_SPLIT: Final = 8


@dataclass(frozen=True, slots=True)
class Tile:
    """How a product is cut up; see the kernels."""

    block_n: int
    block_k: int
    split: int = 1
    stages: int = 4
    warps: int = 4


def takes(x: torch.Tensor, weight: torch.Tensor) -> bool:
    """Return whether :func:`stream` can multiply these: few rows, input features that are a multiple of 16."""
    return len(x) <= MOST_ROWS and weight.shape[1] % ALIGNMENT == 0


def stream(
    x: torch.Tensor,
    weight: torch.Tensor,
    *,
    weight_scale: torch.Tensor | None = None,
    x_scale: torch.Tensor | None = None,
    norm: NormSpec | None = None,
    norm_weight: torch.Tensor | None = None,
    activation: str = "",
    residual: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    out_dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """Return ``residual + activation(x_scale * weight_scale * (norm(x) @ weight.T) + bias)`` for few rows.

    Args:
        x: [T, in] with ``T <= MOST_ROWS``, in float32, bfloat16, float16 or, for an 8-bit weight, float8_e4m3fn.
        weight: [out, in], contiguous, ``in`` a multiple of 16; in ``x``'s type or float8_e4m3fn, which is widened to
            ``x``'s type on the way.
        weight_scale: float32 [out], a factor on each output feature.
        x_scale: float32 [T], a factor on each row.
        norm, norm_weight: a norm of ``x``, over its values before ``x_scale``; [in].
        activation: see :class:`hardpoint.contract.quant.Fusion`; the output has half of the features.
        residual: [T, out], contiguous; overwritten with the result and returned.
        bias: [out].
        out_dtype: of the result, ``x``'s by default.

    Returns:
        [T, out], or [T, out / 2] behind an activation.
    """
    rows, k_in = x.shape
    n_out = weight.shape[0] // 2 if activation else weight.shape[0]
    out = residual
    if out is None:
        out = torch.empty((rows, n_out), dtype=out_dtype or x.dtype, device=x.device)
    if rows == 0:
        return out
    if x.stride(1) != 1:
        x = x.contiguous()
    kind = ACTIVATIONS[activation]
    eps, offset = (0.0, 0.0) if norm is None else (norm.eps, norm.offset)
    keywords = dependent.keywords(x.device)
    flags = {
        "NORM": norm is not None,
        "KIND": kind,
        "BIAS": bias is not None,
        "RESIDUAL": residual is not None,
        "SCALED": weight_scale is not None,
        "X_SCALED": x_scale is not None,
        "PREFETCH": keywords["PDL"],
    }
    # A kernel never follows a pointer that its flags switch off.
    pointers = [x if each is None else each for each in (norm_weight, bias, residual, weight_scale, x_scale)]
    if rows == 1:
        tile = one_row_tile(n_out, k_in, bool(kind))
        one_row[(triton.cdiv(n_out, tile.block_n),)](
            x, weight, out, *pointers, n_out, k_in, eps, offset, BLOCK_N=tile.block_n, BLOCK_K=tile.block_k,
            EVEN=k_in % tile.block_k == 0, num_warps=tile.warps, **flags, **keywords,
        )  # fmt: skip
        return out
    tile = few_rows_tile(n_out, k_in, triton.next_power_of_2(rows), bool(kind), multiprocessors(x.device))
    partial, arrived = workspace(x.device)
    few_rows[(triton.cdiv(n_out, tile.block_n), tile.split)](
        x, weight, out, *pointers, partial, arrived, rows, x.stride(0), n_out, k_in, eps, offset,
        ROWS=max(16, triton.next_power_of_2(rows)), BLOCK_N=tile.block_n, BLOCK_K=tile.block_k, SPLIT=tile.split,
        STAGES=tile.stages, EVEN=k_in % (tile.block_k * tile.split) == 0, num_warps=tile.warps, **flags, **keywords,
    )  # fmt: skip
    return out


@cache
def one_row_tile(n_out: int, k_in: int, pair: bool) -> Tile:
    """Return how one row's product is cut up."""
    return Tile(4 if pair else 8, min(2048, triton.next_power_of_2(k_in)))


@cache
def few_rows_tile(n_out: int, k_in: int, rows: int, pair: bool, processors: int) -> Tile:
    """Return how a product of few rows is cut up: into about as many equal programs as run at the same time."""
    block_k = 64
    tiles = triton.cdiv(n_out, 64)
    most = max(1, min(MOST_SPLIT, k_in // (4 * block_k)))
    split = 1
    while split < most and tiles * split * 2 <= processors * RESIDENT:
        split *= 2
    return Tile(64, block_k, split, stages=4 if pair else 6)


@cache
def multiprocessors(device: torch.device) -> int:
    """Return the number of a device's multiprocessors."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 4


@cache
def workspace(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return memory for the sums of programs that share a tile, and for each tile how many have arrived (left at 0).

    Calls on one device follow each other on one stream, or replace each other's work.
    """
    tiles = multiprocessors(device) * RESIDENT
    floats = tiles * MOST_SPLIT * (2 * 64 * MOST_ROWS + MOST_ROWS)
    return torch.empty(floats, device=device), torch.zeros(tiles, dtype=torch.int32, device=device)
