"""Products of few rows on Hopper and later: ``stream.cu`` where it fits, else Triton's kernels."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Final

import torch

from hardpoint_cuda import nvrtc
from hardpoint_triton import dependent
from hardpoint_triton import stream as triton_stream
from hardpoint_triton.norm_kernels import rms_norm
from hardpoint_triton.stream import ACTIVATIONS, multiprocessors

if TYPE_CHECKING:
    from hardpoint.contract.quant import NormSpec

#: Rows that one product takes: for more, x comes from the L2 cache more often than Triton's tiles read it.
MOST_ROWS: Final = 16
#: Bytes of a weight up to which starting early counts for more than the longer stretches that Triton's kernels read.
MOST_BYTES: Final = 20_000_000
#: Rows up to which the norm rides along; for more, every block's own pass over x costs more than one kernel's.
NORMED_ROWS: Final = 8
#: Bytes of a weight's row that a warp reads in one step.
STEP: Final = 64
#: Shared memory up to which a single row is kept there.
SHARED_BYTES: Final = 32768
#: Alignment of the rows of x.
ALIGNMENT: Final = 16


@dataclass(frozen=True, slots=True)
class Shape:
    """How the kernel is compiled; see ``stream.cu``."""

    warps: int
    depth: int = 8
    resident: int = 16
    tiles: int = 1


def fits(x: torch.Tensor, weight: torch.Tensor) -> bool:
    """Return whether the CUDA kernel can multiply these."""
    return (
        len(x) <= MOST_ROWS
        and weight.nbytes <= MOST_BYTES
        and x.dtype == weight.dtype
        and x.dtype in (torch.bfloat16, torch.float16, torch.float8_e4m3fn)
        and weight.shape[1] * weight.element_size() % STEP == 0
        and dependent.supported(x.device)
    )


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
    """Do what :func:`hardpoint_triton.stream.stream` does, with the same arguments."""
    rows, k_in = x.shape
    n_out = weight.shape[0] // 2 if activation else weight.shape[0]
    dtype = out_dtype or (x.dtype if residual is None else residual.dtype)
    if not fits(x, weight) or rows == 0 or dtype not in (torch.bfloat16, torch.float16):
        return triton_stream.stream(
            x, weight, weight_scale=weight_scale, x_scale=x_scale, norm=norm, norm_weight=norm_weight,
            activation=activation, residual=residual, bias=bias, out_dtype=out_dtype,
        )  # fmt: skip
    # Times the norm's weight but not yet divided by the root mean square, float16 could overflow.
    if norm is not None and (rows > NORMED_ROWS or x.dtype != torch.bfloat16):
        assert norm_weight is not None
        x, norm = rms_norm(x, norm_weight, norm.eps, norm.offset), None
    size = x.element_size()
    if x.stride(1) != 1 or x.stride(0) * size % ALIGNMENT or x.data_ptr() % ALIGNMENT:
        x = x.contiguous()
        x = x.clone() if x.data_ptr() % ALIGNMENT else x
    out = residual
    if out is None:
        out = torch.empty((rows, n_out), dtype=dtype, device=x.device)
    features = 8 if activation else 16
    shape = shape_for(-(-n_out // features), k_in * size // STEP, rows, multiprocessors(x.device))
    blocks = -(-n_out // (features * shape.tiles))
    alone = rows == 1 and k_in * size <= SHARED_BYTES
    wide = norm_weight is not None and norm_weight.dtype == torch.float32
    macros = {
        "ROWS": 8 if rows <= 8 else 16,
        "WARPS": shape.warps,
        "RESIDENT": shape.resident,
        "DEPTH": shape.depth,
        "TILES": shape.tiles,
        "LINE": 128 if k_in * size % 128 == 0 else STEP,
        "ALONE": alone,
        "FP8": x.dtype == torch.float8_e4m3fn,
        "HALF": dtype == torch.float16,
        "KIND": ACTIVATIONS[activation],
        "NORM": 0 if norm is None else 2 if wide else 1,
        "BIAS": bias is not None,
        "RESIDUAL": residual is not None,
        "SCALED": weight_scale is not None,
        "X_SCALED": x_scale is not None,
    }
    kernel = nvrtc.compiled("stream.cu", "stream", tuple((k, int(v)) for k, v in macros.items()), x.device.index or 0)
    pointers = (x, weight, out, norm_weight, bias, residual, weight_scale, x_scale)
    kernel.launch(
        blocks,
        shape.warps * 32,
        k_in * size if alone else 0,
        [
            *(ctypes.c_void_p(None if each is None else each.data_ptr()) for each in pointers),
            ctypes.c_int(rows),
            ctypes.c_longlong(x.stride(0) * size),
            ctypes.c_int(n_out),
            ctypes.c_int(k_in * size),
            ctypes.c_float(0.0 if norm is None else norm.eps),
            ctypes.c_float(0.0 if norm is None else norm.offset),
            ctypes.c_float(1.0 / k_in),
        ],
    )
    return out


@cache
def shape_for(tiles: int, steps: int, rows: int, processors: int) -> Shape:
    """Return how many warps share a tile: the fewer tiles there are, the more."""
    warps = 4
    while warps < 16 and tiles * warps < 8 * processors and warps * 2 <= steps:
        warps *= 2
    return Shape(warps)
