"""Weights in E4M3 (Micikevicius et al., "FP8 Formats for Deep Learning", 2022) with float32 scales.

A value is its code times its scale, whatever the checkpoint calls the scale. What kernels of such a scheme read:
``weight``, float8_e4m3fn [out, in], and ``weight_scale``, float32: [out] where ``group`` is 0 (a scale for each row) or -1
(one for the tensor, repeated for each of its rows), [ceil(out / 128), ceil(in / 128)] where it is 128.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torch

from hardpoint.contract.quant import LinearScheme, TensorSpec

NAME: Final = "fp8_e4m3"
DTYPE: Final = torch.float8_e4m3fn
#: The largest finite value.
LARGEST: Final = 448.0
#: Side of a square block that shares a scale; no other size is published.
BLOCK: Final = 128
PER_TENSOR: Final = -1
PER_ROW: Final = 0
#: A row of zeros gets a scale that is not zero.
LEAST_SCALE: Final = 2.0**-40


def scheme(group: int, *, activations: bool = True) -> LinearScheme:
    """Return the scheme of a layer.

    Args:
        group: :data:`PER_TENSOR`, :data:`PER_ROW` or :data:`BLOCK`.
        activations: whether inputs are quantized too.
    """
    return LinearScheme(weight=NAME, activation=NAME if activations else None, group=group)


def specs(
    scheme: LinearScheme,
    out_features: int,
    in_features: int,
    *,
    scale: str = "weight_scale",
    also: tuple[str, ...] = (),
) -> Mapping[str, TensorSpec]:
    """Return the stored tensors of a layer.

    Args:
        scheme: of the layer.
        out_features, in_features: of the whole layer.
        scale: what checkpoints call the scale.
        also: its other names.
    """
    weight = TensorSpec(shape=(out_features, in_features), dtype="float8_e4m3fn", out_axis=0, in_axis=1)
    if scheme.group == PER_TENSOR:
        scales = TensorSpec(shape=(), dtype="float32", out_axis=None, per_row=True, also=also)
    elif scheme.group == PER_ROW:
        scales = TensorSpec(shape=(out_features,), dtype="float32", out_axis=0, also=also)
    else:
        scales = TensorSpec(
            shape=(-(-out_features // BLOCK), -(-in_features // BLOCK)),
            dtype="float32",
            out_axis=0,
            in_axis=1,
            out_pack=BLOCK,
            in_pack=BLOCK,
            also=also,
        )
    return {"weight": weight, scale: scales}


def dequantize(weight: torch.Tensor, scale: torch.Tensor, group: int, dtype: torch.dtype) -> torch.Tensor:
    """Return codes times scales, multiplied in float32.

    Args:
        weight: float8_e4m3fn [out, in].
        scale: float32, of the shape that :func:`specs` gives.
        group: :data:`PER_TENSOR`, :data:`PER_ROW` or :data:`BLOCK`.
        dtype: of the result.
    """
    wide = weight.float()
    if group == PER_ROW:
        return wide.mul_(scale.unsqueeze(-1)).to(dtype)
    if group == PER_TENSOR:
        return wide.mul_(scale).to(dtype)
    rows, columns = weight.shape
    spread = scale.repeat_interleave(BLOCK, 0)[:rows].repeat_interleave(BLOCK, 1)[:, :columns]
    return wide.mul_(spread).to(dtype)


def quantize_rows(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Round each row to codes whose largest is the format's largest: nearest code, ties to even.

    Args:
        weight: [out, in], finite.

    Returns:
        Codes [out, in] and float32 scales [out].
    """
    scale = weight.abs().amax(-1).float().div_(LARGEST).clamp_(min=LEAST_SCALE)
    # The division by the largest may round up past the format's last value.
    codes = (weight.float() / scale.unsqueeze(-1)).clamp_(-LARGEST, LARGEST)
    return codes.to(DTYPE), scale
