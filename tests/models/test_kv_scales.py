"""Scales of an 8-bit cache reach the kernels from wherever a checkpoint has them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from paged_harness import Alone, PlainDevice
from safetensors.torch import load_file, save_file

from hardpoint.config import EngineConfig
from hardpoint.contract.attention import AttentionLayerConfig
from hardpoint.contract.errors import ConfigError
from hardpoint.layers import load_model
from hardpoint.ops import OpTable
from hardpoint.plugins import Catalogue
from hardpoint.testing.reference_attention import ReferenceLayer
from hardpoint.weights import resolve


class Plain(ReferenceLayer):
    """A layer that cannot scale."""


class Scaled(ReferenceLayer):
    """A layer that keeps what it is given."""

    def set_scales(self, k_scale: float, v_scale: float) -> None:
        GIVEN[self.config.layer] = (k_scale, v_scale)


GIVEN: dict[int, tuple[float, float]] = {}


def load(folder: Path, kind: type[ReferenceLayer], kv_dtype: str) -> None:
    GIVEN.clear()
    config = EngineConfig.of(model=str(folder), dtype="float32", kv_cache_dtype=kv_dtype)
    catalogue = Catalogue()

    def layer(config: AttentionLayerConfig) -> ReferenceLayer:
        return kind(config, 16)

    load_model(config, resolve(config.model, catalogue), catalogue, PlainDevice(), Alone(), OpTable(), layer)


@pytest.fixture
def scaled(tiny: Callable[[str], Path], tmp_path: Path) -> Path:
    """Return a checkpoint whose first layer has scales under one name and the second under another."""
    folder = tmp_path / "scaled"
    shutil.copytree(tiny("LlamaForCausalLM"), folder)
    (file,) = folder.glob("*.safetensors")
    tensors = load_file(file)
    for name, value in (("0.self_attn.k_proj.k", 0.5), ("0.self_attn.v_proj.v", 0.25), ("1.self_attn.k", 2.0)):
        tensors[f"model.layers.{name}_scale"] = torch.tensor(value)
    save_file(tensors, file, metadata={"format": "pt"})
    return folder


def test_scales_are_read(scaled: Path) -> None:
    load(scaled, Scaled, "float8_e4m3fn")
    assert GIVEN[0] == (0.5, 0.25)
    assert GIVEN[1] == (2.0, 1.0)


def test_a_checkpoint_without_scales_has_ones(tiny: Callable[[str], Path]) -> None:
    load(tiny("LlamaForCausalLM"), Scaled, "float8_e4m3fn")
    assert set(GIVEN.values()) == {(1.0, 1.0)}
    load(tiny("LlamaForCausalLM"), Plain, "float8_e4m3fn")
    load(tiny("LlamaForCausalLM"), Scaled, "auto")
    assert not GIVEN


def test_a_kernel_that_cannot_scale_is_refused(scaled: Path) -> None:
    with pytest.raises(ConfigError, match=r"layer 0: 0\.5, 0\.25.*--kv-cache-dtype"):
        load(scaled, Plain, "float8_e4m3fn")
