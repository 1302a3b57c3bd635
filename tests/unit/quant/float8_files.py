"""Checkpoints in 8-bit floats, written by hand to the formats' descriptions, and what their layers stand for in float64."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from weights_rig import edit_config

E4M3 = torch.float8_e4m3fn

#: Returns the scale of each element's group, spread over [out, in], and as it is stored.
Scaling = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


def by_tensor(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    scale = weight.abs().max() / 448
    return scale.expand_as(weight), scale


def by_channel(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    scale = weight.abs().amax(1, keepdim=True) / 448
    return scale.expand_as(weight), scale


def by_block(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    rows, columns = weight.shape
    stored = torch.empty(-(-rows // 128), -(-columns // 128), dtype=weight.dtype)
    spread = torch.empty_like(weight)
    for i in range(stored.shape[0]):
        for j in range(stored.shape[1]):
            block = (slice(128 * i, 128 * i + 128), slice(128 * j, 128 * j + 128))
            stored[i, j] = weight[block].abs().max() / 448
            spread[block] = stored[i, j]
    return spread, stored


def store(
    folder: Path,
    config: dict[str, Any],
    scaling: Scaling,
    *,
    scale: str = "weight_scale",
    as_stored: Callable[[torch.Tensor], torch.Tensor] = lambda scale: scale.float(),
    input_scale: str = "",
    dense: tuple[str, ...] = (),
) -> dict[str, torch.Tensor]:
    """Replace a checkpoint's projections by 8-bit floats.

    Args:
        folder: of the checkpoint.
        config: its new ``quantization_config``.
        scaling: of weights.
        scale: what the scale is called.
        as_stored: gives a scale the type and shape that the file has.
        input_scale: what the scale of inputs is called; none by default.
        dense: ends of the names of layers that stay as they are.

    Returns:
        Path of each quantized layer -> its weight in float64.
    """
    held = load_file(folder / "model.safetensors")
    stored: dict[str, torch.Tensor] = {}
    values: dict[str, torch.Tensor] = {}
    for name, tensor in held.items():
        path = name.removesuffix(".weight")
        if not path.endswith("_proj") or path.endswith(dense):
            stored[name] = tensor
            continue
        exact, kept = scaling(tensor.double())
        codes = (tensor.double() / exact).clamp(-448, 448).float().to(E4M3)
        kept = as_stored(kept).contiguous()
        stored |= {name: codes, f"{path}.{scale}": kept}
        if input_scale:
            stored[f"{path}.{input_scale}"] = torch.tensor(0.5)
        values[path] = codes.double() * _spread(kept, tensor)
    save_file(stored, folder / "model.safetensors")
    edit_config(folder, quantization_config=config)
    return values


def store_dense(folder: Path, values: dict[str, torch.Tensor], pristine: Path) -> Path:
    """Write the checkpoint whose weights are the values that a quantized one stands for."""
    held = load_file(pristine / "model.safetensors")
    held |= {f"{path}.weight": value.float() for path, value in values.items()}
    save_file(held, folder / "model.safetensors")
    edit_config(folder, quantization_config=...)
    return folder


def _spread(kept: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return a stored scale for each element of a weight, from the file's own values."""
    scale = kept.double()
    if scale.dim() < 2 or scale.shape == (len(weight), 1):
        return scale.reshape(-1, 1).expand(len(weight) if scale.numel() > 1 else 1, 1)
    rows, columns = (torch.arange(n) // 128 for n in weight.shape)
    return scale[rows][:, columns]
