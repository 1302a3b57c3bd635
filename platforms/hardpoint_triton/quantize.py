"""Activations in E4M3 with float32 scales, for products of quantized layers.

A token is quantized by its own values alone, so that what it becomes does not depend on its company.
"""

from __future__ import annotations

from typing import Final

import torch
import triton

from hardpoint.contract.quant import NormSpec
from hardpoint_triton import dependent
from hardpoint_triton.launches import Launches
from hardpoint_triton.quantize_kernels import NORM, PLAIN, SILU, quantize_row, rescale_row
from hardpoint_triton.stream import ACTIVATIONS

DTYPE: Final = torch.float8_e4m3fn
#: Elements that share a scale where a row has several.
GROUP: Final = 128
#: Products with several scales a row want rows in multiples of it.
PADDING: Final = 4
_BLOCK: Final = 1024
#: What Triton compiles apart: addresses and integers that are a multiple of it.
_ALIGNED: Final = 16
_QUANTIZE: Final = Launches(quantize_row)

Quantized = tuple[torch.Tensor, torch.Tensor]


def quantize(x: torch.Tensor, *, group: int = 0) -> Quantized:
    """Round rows to E4M3.

    Args:
        x: [T, size]; rows may lie apart.
        group: elements that share a scale; 0 for the whole row.

    Returns:
        Codes [T, size] and float32 scales: [T, 1], or [T, size / group] stored column by column; in the latter case rows
        that mean nothing fill both up to a multiple of :data:`PADDING`, and there is at least one.
    """
    return _launch(x, None, None, x.shape[1], PLAIN.value, group)


def norm_quantize(x: torch.Tensor, norm: NormSpec, weight: torch.Tensor, *, group: int = 0) -> Quantized:
    """Norm rows as ``rms_norm`` does, then :func:`quantize` them. ``weight``: [size], float32 for a wide norm."""
    return _launch(x, norm, weight, x.shape[1], NORM.value, group)


def silu_mul_quantize(gate_up: torch.Tensor, *, group: int = 0) -> Quantized:
    """Apply ``silu_mul`` to ``gate_up`` [T, 2 * size], then :func:`quantize` the result [T, size]."""
    return _launch(gate_up, None, None, gate_up.shape[1] // 2, SILU.value, group)


def rescale(
    raw: torch.Tensor,
    x_scale: torch.Tensor,
    weight_scale: torch.Tensor,
    bias: torch.Tensor | None,
    activation: str,
    residual: torch.Tensor | None,
) -> torch.Tensor:
    """Return ``residual + activation(raw * x_scale * weight_scale + bias)``.

    Args:
        raw: [T, out], contiguous, the product of codes.
        x_scale: float32 [T, 1].
        weight_scale: float32 [out].
        bias: [out].
        activation: see :class:`hardpoint.contract.quant.Fusion`; the result has half of the features.
        residual: [T, out of the result], contiguous; overwritten and returned. ``raw`` is, where it is absent and fits.
    """
    rows, width = raw.shape
    n_out = width // 2 if activation else width
    out = residual
    if out is None:
        out = torch.empty((rows, n_out), dtype=raw.dtype, device=raw.device) if activation else raw
    if rows:
        rescale_row[(rows, triton.cdiv(n_out, _BLOCK))](
            raw, x_scale, weight_scale, raw if bias is None else bias, out, out, n_out,
            BLOCK=_BLOCK, KIND=ACTIVATIONS[activation], BIAS=bias is not None, RESIDUAL=residual is not None,
            num_warps=4, **dependent.keywords(raw.device),
        )  # fmt: skip
    return out


def _launch(
    x: torch.Tensor, norm: NormSpec | None, weight: torch.Tensor | None, size: int, kind: int, group: int
) -> Quantized:
    if x.stride(1) != 1:
        x = x.contiguous()
    rows = len(x)
    filled = max(1, -(-rows // PADDING)) * PADDING if group else rows
    codes = torch.empty((filled, size), dtype=DTYPE, device=x.device)
    if group:
        scales = torch.empty((size // group, filled), dtype=torch.float32, device=x.device).t()
    else:
        scales = torch.empty((rows, 1), dtype=torch.float32, device=x.device)
    if rows == 0:
        return codes, scales
    by = x if weight is None else weight
    eps, offset = (0.0, 0.0) if norm is None else (norm.eps, norm.offset)
    args = (x, by, codes, scales, x.stride(0), scales.stride(0), scales.stride(1), eps, offset)
    aligned = (x.data_ptr() % _ALIGNED, by.data_ptr() % _ALIGNED, x.stride(0) % _ALIGNED, filled % _ALIGNED)
    key = (x.device, x.dtype, by.dtype, size, kind, bool(offset), group, *(each == 0 for each in aligned))
    grid = (rows, 1, 1)
    if not _QUANTIZE.again(key, grid, *args):
        padded = triton.next_power_of_2(size)
        wide = norm is not None and (bool(offset) or by.dtype != x.dtype)
        warps = min(16, max(1, padded // 512))
        _QUANTIZE.first(
            key, grid, *args, device=x.device, warps=warps, SIZE=size, PADDED=padded, KIND=kind, WIDE=wide, GROUP=group
        )
    return codes, scales
