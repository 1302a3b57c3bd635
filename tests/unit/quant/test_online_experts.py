"""Stacked experts that are rounded to 8-bit floats while they load."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from weights_rig import load

from hardpoint_quant.float8 import dequantize, quantize_rows

E4M3 = torch.float8_e4m3fn


@pytest.mark.parametrize("architecture", ["Qwen3MoeForCausalLM", "MixtralForCausalLM", "GptOssForCausalLM"])
def test_codes_and_scales_are_those_of_each_row(architecture: str, checkpoint: Callable[..., Path]) -> None:
    folder = checkpoint(architecture)
    dense, rounded = (load(folder, **options).model.layers[0].mlp.experts for options in ({}, {"quantization": "fp8"}))  # type: ignore[attr-defined]
    for name in ("gate_up", "down"):
        codes, scale = getattr(rounded, name), getattr(rounded, f"{name}_scale")
        expected = quantize_rows(getattr(dense, name))
        assert codes.dtype == E4M3
        assert torch.equal(codes.float(), expected[0].float())
        assert torch.equal(scale, expected[1])
        assert getattr(dense, f"{name}_scale") is None


@torch.inference_mode()
def test_a_layer_runs_on_what_its_codes_mean(checkpoint: Callable[..., Path]) -> None:
    folder = checkpoint("Qwen3MoeForCausalLM")
    layer = load(folder, quantization="fp8").model.layers[0].mlp  # type: ignore[attr-defined]
    same = load(folder).model.layers[0].mlp  # type: ignore[attr-defined]
    for name in ("gate_up", "down"):
        codes, scale = getattr(layer.experts, name), getattr(layer.experts, f"{name}_scale")
        getattr(same.experts, name).copy_(
            torch.stack([dequantize(c, s, 0, torch.float32) for c, s in zip(codes, scale, strict=True)])
        )
    held = load_file(folder / "model.safetensors")
    x = torch.randn(9, held["model.norm.weight"].numel(), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(layer(x, x.clone()), same(x, x.clone()))


def test_random_weights_are_rounded_too(checkpoint: Callable[..., Path]) -> None:
    folder = checkpoint("Qwen3MoeForCausalLM")
    dense, rounded = (
        load(folder, load_format="dummy", seed=7, **options).model.layers[1].mlp.experts  # type: ignore[attr-defined]
        for options in ({}, {"quantization": "fp8"})
    )
    codes, scale = quantize_rows(dense.down)
    assert torch.equal(rounded.down.float(), codes.float())
    assert torch.equal(rounded.down_scale, scale)
