"""Configurations that are damaged or ask for what is not read: the text names value, reason and way out."""

from __future__ import annotations

from typing import Any

import pytest

from hardpoint.contract.errors import ConfigError
from hardpoint.contract.quant import DENSE
from hardpoint_quant.compressed_tensors import CompressedTensors
from hardpoint_quant.fp8 import Fp8

WEIGHTS = {"num_bits": 8, "type": "float", "strategy": "channel", "symmetric": True}


def group(weights: Any = None, inputs: Any = None, **more: Any) -> dict[str, Any]:
    return {
        "config_groups": {
            "g": {"weights": WEIGHTS if weights is None else weights, "input_activations": inputs, **more}
        }
    }


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"activation_scheme": "sometimes"}, r"activation_scheme is 'sometimes'; it must be 'dynamic' or 'static'"),
        ({"weight_block_size": [64, 64]}, r"weight_block_size is \[64, 64\]; blocks of \[128, 128\] are read"),
        ({"weight_block_size": 128}, r"weight_block_size is 128"),
        ({"scale_fmt": "nf9"}, r"scale_fmt is 'nf9', which is not read; 'float' and 'ue8m0' are"),
        ({"expert_dtype": "fp4"}, r"expert_dtype is 'fp4', which is not read"),
        ({"fmt": "e5m2"}, r"fmt is 'e5m2', which is not read"),
        ({"modules_to_not_convert": "lm_head"}, r"modules_to_not_convert is 'lm_head'; it must be a list"),
        ({"ignored_layers": [3]}, r"ignored_layers is \[3\]"),
        ({"modules_to_not_convert": ["a("]}, r"'a\(', which is no regular expression .*--hf-overrides"),
    ],
)
def test_fp8(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Fp8().read({"quant_method": "fp8", **config})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, r"config_groups is None; it must name at least one group"),
        ({"config_groups": {"g": 3}}, r"config_groups\.g is 3; it must be an object"),
        ({"config_groups": {"g": {"weights": None}}}, r"g\.weights is None; use a checkpoint"),
        (
            group({**WEIGHTS, "type": "int"}),
            r"g\.weights is of type 'int' with 8 bits, which is not read; use a checkpoint",
        ),
        (group({**WEIGHTS, "num_bits": 4}), r"type 'float' with 4 bits"),
        (group({**WEIGHTS, "symmetric": False}), r"symmetric is False"),
        (group({**WEIGHTS, "strategy": "group"}), r"strategy is 'group'; tensor, channel, block are read"),
        (group({**WEIGHTS, "strategy": "block", "block_structure": "64x64"}), r"block_structure is '64x64'"),
        (group(inputs={**WEIGHTS, "type": "int"}), r"input_activations is of type 'int'"),
        (group(inputs=5), r"input_activations is 5"),
        (group(inputs={**WEIGHTS, "strategy": "channel"}), r"input_activations\.strategy is 'channel'"),
        (group(targets="Linear"), r"targets is 'Linear'; it must be a list"),
        ({**group(), "ignore": ["re:("]}, r"ignore holds 're:\(', which is no regular expression"),
        (
            {**group(), "sparsity_config": {"format": "sparse-24-bitmask"}},
            r"sparsity_config\.format is 'sparse-24-bitmask'",
        ),
    ],
)
def test_compressed_tensors(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CompressedTensors().read({"quant_method": "compressed-tensors", **config})


def test_weights_alone_may_be_quantized() -> None:
    scheme = CompressedTensors().read(group()).scheme("model.layers.0.mlp.up_proj")
    assert (scheme.weight, scheme.activation, scheme.group) == ("fp8_e4m3", None, 0)


def test_layers_that_no_target_names_are_dense() -> None:
    read = CompressedTensors().read(group(targets=["re:.*down_proj"]))
    assert read.scheme("model.layers.0.mlp.up_proj") == DENSE
    assert read.scheme("model.layers.0.mlp.down_proj").weight == "fp8_e4m3"


def test_blocks_may_be_spelled_as_a_string() -> None:
    weights = {**WEIGHTS, "strategy": "block", "block_structure": "128x128"}
    assert CompressedTensors().read(group(weights)).scheme("x").group == 128
