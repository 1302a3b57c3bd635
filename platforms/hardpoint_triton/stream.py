"""Products of few rows with all that surrounds them: shapes of tiles, working memory, the call."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Final

import torch
import triton

from hardpoint_triton import dependent
from hardpoint_triton.launch import AMD_SHARED
from hardpoint_triton.norm_kernels import rms_norm
from hardpoint_triton.stream_kernels import few_rows, one_row

if TYPE_CHECKING:
    from hardpoint.contract.quant import NormSpec

#: Name of a fused activation -> its number in the kernels.
ACTIVATIONS: Final = {"": 0, "silu_mul": 1, "gelu_mul": 2, "gelu_mul_exact": 3}
#: Addresses and sizes of input rows are multiples of this many elements, so that loads are 16 bytes of any type.
ALIGNMENT: Final = 16
#: Rows up to which :func:`stream` takes a product.
MOST_ROWS: Final = 64
#: Rows that the kernel for several computes at least. With 16, two programs fit on a multiprocessor: good for heads, whose
#: tiles are many (247 against 260 µs), not between dependent kernels (the products of an 8B layer take 129 against 119 µs).
LEAST_ROWS: Final = 32
LEAST_HEAD_ROWS: Final = 16
#: Tiles for each multiprocessor from which a layer counts as a head.
HEAD_TILES: Final = 8
#: Most programs that share a tile.
MOST_SPLIT: Final = 8
#: Programs for which there is working memory at least.
LEAST_PROGRAMS: Final = 64
#: One row's kernel has no good tiles for weights of so few columns with so many rows.
SHORT: Final = 1024
MANY: Final = 32768
#: Rows of the weight in a tile of several rows.
TILE: Final = 64


@dataclass(frozen=True, slots=True)
class Tile:
    """How a product is cut up; see the kernels. ``wave``: programs that fetch ``early`` elements of each row ahead."""

    block_n: int
    block_k: int
    split: int = 1
    stages: int = 4
    warps: int = 4
    early: int = 0
    wave: int = 0


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
    keywords = dependent.keywords(x.device)
    processors = multiprocessors(x.device)
    # Rows too short to fill a pipeline go through the other kernel's larger tiles.
    alone = rows == 1 and (k_in > SHORT or n_out < MANY or x.dtype == torch.float32)
    if norm is not None and not alone:
        assert norm_weight is not None
        x, norm = rms_norm(x, norm_weight, norm.eps, norm.offset), None
    flags = {
        "KIND": kind,
        "BIAS": bias is not None,
        "RESIDUAL": residual is not None,
        "SCALED": weight_scale is not None,
        "X_SCALED": x_scale is not None,
    }
    # A kernel never follows a pointer that its flags switch off.
    pointers = [x if each is None else each for each in (bias, residual, weight_scale, x_scale)]
    if alone:
        tile = one_row_tile(n_out, k_in, weight.element_size(), bool(kind), processors)
        eps, offset = (0.0, 0.0) if norm is None else (norm.eps, norm.offset)
        one_row[(triton.cdiv(n_out, tile.block_n),)](
            x, weight, out, x if norm_weight is None else norm_weight, *pointers, n_out, k_in, eps, offset,
            BLOCK_N=tile.block_n, BLOCK_K=tile.block_k, STAGES=tile.stages, NORM=norm is not None,
            EVEN=k_in % tile.block_k == 0, EARLY=min(tile.early, k_in) if keywords["PDL"] else 0,
            FIRST_WAVE=tile.wave, num_warps=tile.warps, **flags, **keywords,
        )  # fmt: skip
        return out
    tiles = triton.cdiv(n_out, TILE)
    padded = max(LEAST_HEAD_ROWS if tiles >= HEAD_TILES * processors else LEAST_ROWS, triton.next_power_of_2(rows))
    line = weight.element_size() * (2 * TILE if kind else TILE) + x.element_size() * padded
    tile = few_rows_tile(tiles, k_in, weight.element_size(), line, bool(kind), processors, shared_memory(x.device))
    partial, arrived = workspace(x.device)
    few_rows[(tiles, tile.split)](
        x, weight, out, *pointers, partial, arrived, rows, x.stride(0), n_out, k_in,
        ROWS=padded, BLOCK_N=tile.block_n, BLOCK_K=tile.block_k, SPLIT=tile.split,
        STAGES=tile.stages, EVEN=k_in % (tile.block_k * tile.split) == 0, EARLY=tile.early if keywords["PDL"] else 0,
        FIRST_WAVE=tile.wave, num_warps=tile.warps, **flags, **keywords,
    )  # fmt: skip
    return out


@cache
def one_row_tile(n_out: int, k_in: int, size: int, pair: bool, processors: int) -> Tile:
    """Return how one row's product is cut up; ``size`` is that of a weight's element. Choices measured on an H200."""
    block_k = min(1024 // size, triton.next_power_of_2(k_in))
    wave = 4 * processors
    if pair:
        return Tile(4, block_k, stages=6, early=2 * block_k, wave=wave) if k_in > 2048 else Tile(8, block_k)
    if processors < triton.cdiv(n_out, 8) <= wave:
        return Tile(8, block_k, stages=6)
    if n_out > 32 * wave:
        return Tile(4, block_k, stages=6)
    return Tile(4, min(2 * block_k, triton.next_power_of_2(k_in)), stages=5, early=2 * block_k, wave=wave)


@cache
def few_rows_tile(tiles: int, k_in: int, size: int, line: int, pair: bool, processors: int, shared: int) -> Tile:
    """Return how a product of few rows is cut up: where tiles are too few, programs share them.

    Args:
        tiles: of the output.
        k_in: input features.
        size: of a weight's element.
        line: bytes of a stage in shared memory for each input feature.
        pair: whether gate and up are computed together.
        processors, shared: the device's multiprocessors and the shared memory of one.
    """
    block_k = 256 // size
    stages = 4 if pair else 5
    while 2 * block_k * line > shared and block_k > 32:
        block_k //= 2
    stages = max(1, min(stages, shared // (block_k * line)))
    most = max(1, min(MOST_SPLIT, k_in // (4 * block_k)))
    split = 1
    while tiles * split * 2 <= processors and split * 2 <= most:
        split *= 2
    return Tile(TILE, block_k, split, stages, early=2 * block_k, wave=2 * processors)


@cache
def multiprocessors(device: torch.device) -> int:
    """Return the number of a device's multiprocessors."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 4


@cache
def shared_memory(device: torch.device) -> int:
    """Return the shared memory that one program can have, in bytes."""
    if torch.version.hip is not None:
        return AMD_SHARED
    if device.type != "cuda":
        return 1 << 17
    index = torch.cuda.current_device() if device.index is None else device.index
    return int(triton.runtime.driver.active.utils.get_device_properties(index)["max_shared_mem"])


@cache
def workspace(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return memory for the sums of programs that share a tile, and for each tile how many have arrived (left at 0).

    Calls on one device follow each other on one stream, or would overwrite each other's sums.
    """
    # Programs share tiles only where all of them run at the same time.
    programs = max(LEAST_PROGRAMS, multiprocessors(device))
    sums = torch.empty(programs * 2 * TILE * MOST_ROWS, device=device)
    return sums, torch.zeros(programs, dtype=torch.int32, device=device)
