"""Checkpoints in 8-bit floats against what they stand for in float64."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from float8_files import Scaling, by_block, by_channel, by_tensor, store, store_dense
from safetensors.torch import load_file, save_file
from weights_rig import edit_config, load

from hardpoint import LLM, SamplingParams
from hardpoint.contract.errors import CheckpointError, ConfigError

E8M0 = torch.float8_e8m0fnu


def compressed(strategy: str, inputs: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    weights = {"num_bits": 8, "type": "float", "strategy": strategy, "symmetric": True, "dynamic": False}
    if strategy == "block":
        weights["block_structure"] = [128, 128]
    token = {"num_bits": 8, "type": "float", "strategy": "token", "symmetric": True, "dynamic": True}
    group = {"targets": ["Linear"], "weights": weights, "input_activations": token if inputs is None else inputs}
    return {
        "quant_method": "compressed-tensors",
        "format": "float-quantized",
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
        "kv_cache_scheme": None,
        **more,
    }


STATIC = {"num_bits": 8, "type": "float", "strategy": "tensor", "symmetric": True, "dynamic": False}
#: Name -> (quantization_config, scaling, how the file spells it).
FILES: dict[str, tuple[dict[str, Any], Scaling, dict[str, Any]]] = {
    "autofp8-static": (
        {"quant_method": "fp8", "activation_scheme": "static", "ignored_layers": ["lm_head"]},
        by_tensor,
        {"input_scale": "input_scale"},
    ),
    "tensor-dynamic": (
        {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": None},
        by_tensor,
        {
            "scale": "weight_scale_inv",
            "as_stored": lambda s: s.bfloat16().reshape(1),
            "input_scale": "activation_scale",
        },
    ),
    "blocks": (
        {"quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3", "weight_block_size": [128, 128]},
        by_block,
        {"scale": "weight_scale_inv"},
    ),
    "blocks-powers-of-two": (
        {"quant_method": "fp8", "scale_fmt": "ue8m0", "weight_block_size": [128, 128]},
        by_block,
        {"scale": "weight_scale_inv", "as_stored": lambda s: torch.exp2(s.log2().ceil()).float().to(E8M0)},
    ),
    "compressed-channel": (compressed("channel"), by_channel, {"as_stored": lambda s: s.bfloat16()}),
    "compressed-tensor-static": (
        compressed("tensor", STATIC),
        by_tensor,
        {"as_stored": lambda s: s.bfloat16().reshape(1), "input_scale": "input_scale"},
    ),
    "compressed-block": (compressed("block"), by_block, {}),
}


def layers_of(loaded: Any) -> dict[str, torch.Tensor]:
    """Return the dense weight of every projection, merged ones apart."""
    found = {}
    for index, layer in enumerate(loaded.model.layers):
        for linear in (layer.attention.qkv, layer.attention.out, layer.mlp.gate_up, layer.mlp.down):
            sizes = [part.stop - part.start for part in linear.parts]
            for part, weight in zip(linear.parts, linear.packed["weight"].split(sizes), strict=True):
                found[part.paths[0]] = weight
        assert f"model.layers.{index}.mlp.down_proj" in found
    return found


@pytest.mark.parametrize("name", FILES)
def test_weights_are_what_the_files_stand_for(name: str, checkpoint: Callable[..., Path]) -> None:
    config, scaling, spelling = FILES[name]
    folder = checkpoint()
    values = store(folder, config, scaling, **spelling)
    loaded = load(folder)
    assert loaded.description["quantization"] == config["quant_method"]
    found = layers_of(loaded)
    assert found.keys() == values.keys()
    for path, value in values.items():
        torch.testing.assert_close(found[path].double(), value, rtol=1e-7, atol=0)
    kinds = {row["layers"]: row["stored"] for row in loaded.description["linear_layers"]}
    assert kinds["lm_head"] == "dense"
    assert kinds["q_proj+k_proj+v_proj"].startswith("fp8_e4m3, a scale per ")


@pytest.mark.parametrize("name", ["autofp8-static", "blocks", "compressed-channel"])
def test_tokens_are_those_of_the_dense_model(name: str, checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    config, scaling, spelling = FILES[name]
    folder = checkpoint()
    plain = checkpoint_copy(folder, tmp_path / "dense")
    values = store(folder, config, scaling, **spelling)
    store_dense(plain, values, plain)
    prompts = [{"prompt_token_ids": [5, 9, 200, 31, 7]}, {"prompt_token_ids": [11] * 40}]
    greedy = SamplingParams(temperature=0.0, max_tokens=12, ignore_eos=True, detokenize=False)
    tokens = []
    for each in (folder, plain):
        with LLM(
            str(each),
            platform="cpu",
            dtype="float32",
            skip_tokenizer_init=True,
            max_model_len=64,
            kv_cache_memory="64M",
        ) as llm:
            tokens.append([list(out.outputs[0].token_ids) for out in llm.generate(prompts, greedy, use_tqdm=False)])
    assert tokens[0] == tokens[1]


def checkpoint_copy(folder: Path, to: Path) -> Path:
    to.mkdir()
    for file in folder.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    return to


@pytest.mark.parametrize(
    ("method", "skip"),
    [
        ("fp8", ["mlp.down_proj"]),
        ("fp8", ["model.layers.0.mlp.down_proj", "model.layers.1.mlp.down_proj"]),
        ("fp8", ["model.layers.*.mlp.down_proj"]),
        ("compressed-tensors", ["lm_head", "re:.*down_proj$"]),
        ("compressed-tensors", ["model.layers.0.mlp.down_proj", "model.layers.1.mlp.down_proj"]),
    ],
)
def test_skipped_layers_are_read_dense(method: str, skip: list[str], checkpoint: Callable[..., Path]) -> None:
    folder = checkpoint()
    before = load_file(folder / "model.safetensors")["model.layers.1.mlp.down_proj.weight"]
    if method == "fp8":
        config = {"quant_method": "fp8", "modules_to_not_convert": skip}
        store(folder, config, by_tensor, dense=("down_proj",))
    else:
        store(folder, compressed("tensor", ignore=skip), by_tensor, dense=("down_proj",))
    layers = layers_of(load(folder))
    assert torch.equal(layers["model.layers.1.mlp.down_proj"], before)


def test_a_name_to_skip_ends_at_a_dot(checkpoint: Callable[..., Path]) -> None:
    """``mlp.gate`` is a router and not ``mlp.gate_proj``."""
    folder = checkpoint()
    config = {"quant_method": "fp8", "modules_to_not_convert": ["model.layers.0.mlp.gate", "model.layers.1.mlp.gate"]}
    values = store(folder, config, by_tensor)
    layers = layers_of(load(folder))
    torch.testing.assert_close(layers["model.layers.0.mlp.gate_proj"].double(), values["model.layers.0.mlp.gate_proj"])


def test_targets_of_compressed_tensors_go_from_names_to_the_class(checkpoint: Callable[..., Path]) -> None:
    folder = checkpoint()
    held = load_file(folder / "model.safetensors")
    values = store(folder, {}, by_channel)
    rows = load_file(folder / "model.safetensors")
    for path in [path for path in values if path.endswith("down_proj")]:
        weight = held[f"{path}.weight"].double()
        spread, scale = by_tensor(weight)
        codes = (weight / spread).float().to(torch.float8_e4m3fn)
        rows |= {f"{path}.weight": codes, f"{path}.weight_scale": scale.float().reshape(1)}
        values[path] = codes.double() * scale.float().double()
    save_file(rows, folder / "model.safetensors")
    config = compressed("channel")
    down = compressed("tensor")["config_groups"]["group_0"] | {"targets": ["re:.*down_proj$"]}
    config["config_groups"]["group_1"] = down
    edit_config(folder, quantization_config=config)
    for path, value in layers_of(load(folder)).items():
        torch.testing.assert_close(value.double(), values[path], rtol=1e-6, atol=0)


def test_scales_of_a_cache_are_known_and_left(checkpoint: Callable[..., Path]) -> None:
    folder = checkpoint()
    store(folder, {"quant_method": "fp8"}, by_tensor)
    held = load_file(folder / "model.safetensors")
    held |= {
        f"model.layers.0.self_attn.{name}": torch.ones(1) for name in ("k_scale", "v_scale", "k_proj.output_scale")
    }
    save_file(held, folder / "model.safetensors")
    edit_config(folder, quantization_config={"quant_method": "fp8"})
    load(folder)


def test_a_missing_scale_is_named(checkpoint: Callable[..., Path]) -> None:
    folder = checkpoint()
    store(folder, {"quant_method": "fp8"}, by_tensor)
    held = load_file(folder / "model.safetensors")
    del held["model.layers.1.self_attn.o_proj.weight_scale"]
    save_file(held, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"lacks 1 tensors.*layers\.1\.self_attn\.o_proj\.weight_scale"):
        load(folder)


def test_scales_of_another_grouping_are_refused(checkpoint: Callable[..., Path]) -> None:
    folder = checkpoint()
    store(folder, {"quant_method": "fp8", "weight_block_size": [128, 128]}, by_channel)
    with pytest.raises(CheckpointError, match=r"weight_scale.* has shape \[192, 1\]; config.json asks for \[2, 3\]"):
        load(folder)


@pytest.mark.parametrize("scaling", [by_tensor, by_block])
def test_experts_stored_in_8_bits(scaling: Scaling, checkpoint: Callable[..., Path]) -> None:
    folder = checkpoint("Qwen3MoeForCausalLM")
    config: dict[str, Any] = {"quant_method": "fp8", "modules_to_not_convert": ["lm_head", "mlp.gate"]}
    if scaling is by_block:
        config["weight_block_size"] = [128, 128]
    values = store(folder, config, scaling, scale="weight_scale_inv" if scaling is by_block else "weight_scale")
    experts = load(folder).model.layers[1].mlp.experts  # type: ignore[attr-defined]
    path = "model.layers.1.mlp.experts.3"
    want = torch.cat([values[f"{path}.{name}_proj"] for name in ("gate", "up")])
    torch.testing.assert_close(experts.gate_up[3].double(), want, rtol=1e-6, atol=0)
    torch.testing.assert_close(experts.down[3].double(), values[f"{path}.down_proj"], rtol=1e-6, atol=0)


#: Half of the heads of each kind is a whole block.
SPLIT = {"hidden_size": 256, "num_key_value_heads": 4, "num_hidden_layers": 1}


@pytest.mark.parametrize("name", ["autofp8-static", "blocks", "compressed-channel"])
def test_ranks_hold_their_part(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two ranks' outputs sum up to one rank's, with blocks that both cut along their borders."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "models"))
    from threaded_ranks import on_ranks

    from hardpoint.testing.tiny_models import make_tiny

    config, scaling, spelling = FILES[name]
    folder = make_tiny("LlamaForCausalLM", tmp_path, **SPLIT, intermediate_size=512)
    values = store(folder, config, scaling, **spelling)
    parts = on_ranks(2, lambda comm: load(folder, None, (), comm).model)
    path = "model.layers.0.mlp"
    for rank, part in enumerate(parts):
        mlp = part.layers[0].mlp
        mine = slice(256 * rank, 256 * (rank + 1))
        gate_up = torch.cat([values[f"{path}.{each}_proj"][mine] for each in ("gate", "up")])
        torch.testing.assert_close(mlp.gate_up.packed["weight"].double(), gate_up, rtol=1e-7, atol=0)
        down = values[f"{path}.down_proj"][:, mine]
        torch.testing.assert_close(mlp.down.packed["weight"].double(), down, rtol=1e-7, atol=0)


def test_ranks_that_would_cut_a_block_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "models"))
    from threaded_ranks import on_ranks

    from hardpoint.testing.tiny_models import make_tiny

    config, scaling, spelling = FILES["blocks"]
    folder = make_tiny("LlamaForCausalLM", tmp_path, **SPLIT, intermediate_size=320)
    store(folder, config, scaling, **spelling)
    with pytest.raises(ConfigError, match=r"down_proj\.weight_scale: features .* cut through .*\(128 features in 1\)"):
        on_ranks(2, lambda comm: load(folder, None, (), comm))
