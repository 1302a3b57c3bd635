"""What is wrong with weights is said before the engine starts: which file, which tensor, what to do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from weights_rig import edit_config, load

from hardpoint.contract.errors import CheckpointError

Checkpoint = Callable[..., Path]
NAME = "model.layers.1.mlp.up_proj.weight"


def change(folder: Path, **tensors: torch.Tensor | None) -> None:
    """Rewrite the weights with tensors replaced, added, or (``None``) removed; ``__`` in a name stands for a dot."""
    path = folder / "model.safetensors"
    held = load_file(path)
    for name, tensor in tensors.items():
        name = name.replace("__", ".")
        held.pop(name, None)
        if tensor is not None:
            held[name] = tensor
    save_file(held, path)


def split(folder: Path) -> Path:
    """Cut the weights into two files with an index; return the index."""
    held = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(held)
    files = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, mine in files.items():
        save_file({name: held[name] for name in mine}, folder / file)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {name: file for file, mine in files.items() for name in mine}}))
    return index


def weights_of(folder: Path, **settings: object) -> list[torch.Tensor]:
    model = load(folder, **settings).model
    return [layer.mlp.down.packed["weight"] for layer in model.layers]  # type: ignore[attr-defined]


def test_a_sharded_checkpoint_equals_a_single_file(checkpoint: Checkpoint) -> None:
    folder = checkpoint()
    want = weights_of(folder)
    split(folder)
    for got, expected in zip(weights_of(folder), want, strict=True):
        assert torch.equal(got, expected)


def test_elements_are_converted_on_the_way(checkpoint: Checkpoint) -> None:
    folder = checkpoint()
    exact, rounded = weights_of(folder, dtype="float32"), weights_of(folder, dtype="bfloat16")
    assert rounded[0].dtype == torch.bfloat16
    assert torch.equal(exact[0].bfloat16(), rounded[0])


def test_missing_tensors_are_listed(checkpoint: Checkpoint) -> None:
    folder = checkpoint()
    change(folder, model__layers__1__mlp__up_proj__weight=None, model__norm__weight=None)
    with pytest.raises(CheckpointError, match="lacks 2 tensors") as error:
        load(folder)
    assert NAME in str(error.value)
    assert "model.norm.weight" in str(error.value)


def test_a_missing_expert_is_named(checkpoint: Checkpoint) -> None:
    folder = checkpoint("Qwen3MoeForCausalLM")
    change(folder, model__layers__0__mlp__experts__3__up_proj__weight=None)
    with pytest.raises(CheckpointError, match=r"lacks 1 tensors.*experts\.3\.up_proj"):
        load(folder)


def test_unexpected_tensors_are_listed(checkpoint: Checkpoint) -> None:
    folder = checkpoint()
    change(folder, model__layers__7__extra__weight=torch.zeros(2))
    with pytest.raises(
        CheckpointError, match=r"1 tensors that the model does not know: model\.layers\.7\.extra\.weight"
    ):
        load(folder)


def test_what_a_model_ignores_may_be_there(checkpoint: Checkpoint) -> None:
    folder = checkpoint()
    change(folder, model__layers__0__self_attn__rotary_emb__inv_freq=torch.zeros(8))
    load(folder)
    tied = checkpoint("Qwen2ForCausalLM")
    change(tied, lm_head__weight=torch.zeros(288, 64))
    load(tied)


def test_a_wrong_shape_names_tensor_and_both_shapes(checkpoint: Checkpoint) -> None:
    folder = checkpoint()
    change(folder, model__layers__1__mlp__up_proj__weight=torch.zeros(95, 64))
    with pytest.raises(CheckpointError) as error:
        load(folder)
    assert NAME in str(error.value)
    assert "[95, 64]" in str(error.value)
    assert "[96, 64]" in str(error.value)


def test_a_configuration_of_another_size(checkpoint: Checkpoint) -> None:
    folder = checkpoint()
    edit_config(folder, vocab_size=300)
    with pytest.raises(CheckpointError, match=r"weight in .*\[288, 64\].*\[300, 64\]"):
        load(folder)


@pytest.mark.parametrize("keep", [0, 5, 300, 40_000])
def test_a_truncated_file(checkpoint: Checkpoint, keep: int) -> None:
    folder = checkpoint()
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(
        CheckpointError, match=rf"model\.safetensors is damaged or cut short \({keep} bytes\).*fetch it again"
    ):
        load(folder)


def test_a_file_that_is_no_safetensors(checkpoint: Checkpoint) -> None:
    folder = checkpoint()
    (folder / "model.safetensors").write_bytes(b"\xff" * 5000)
    with pytest.raises(CheckpointError, match="damaged"):
        load(folder)


def test_an_index_that_names_an_absent_file(checkpoint: Checkpoint) -> None:
    folder = checkpoint()
    split(folder)
    (folder / "b.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"index\.json names b\.safetensors, not in .*incomplete"):
        load(folder)


def test_an_index_that_lists_more_than_its_files_hold(checkpoint: Checkpoint) -> None:
    folder = checkpoint()
    index = split(folder)
    content = json.loads(index.read_text())
    content["weight_map"]["model.ghost"] = "a.safetensors"
    index.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=r"lists model\.ghost, which its files do not hold"):
        load(folder)


def test_an_index_without_a_map(checkpoint: Checkpoint) -> None:
    folder = checkpoint()
    split(folder).write_text("{}")
    with pytest.raises(CheckpointError, match="no weight_map"):
        load(folder)


def test_several_files_without_an_index(checkpoint: Checkpoint) -> None:
    folder = checkpoint()
    split(folder).unlink()
    with pytest.raises(CheckpointError, match="2 safetensors files and no model"):
        load(folder)


def test_pickled_weights_are_refused(checkpoint: Checkpoint) -> None:
    folder = checkpoint()
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(
        CheckpointError, match=r"only pickled weights \(pytorch_model\.bin\).*run code.*save_pretrained"
    ):
        load(folder)


def test_no_weights_at_all(checkpoint: Checkpoint) -> None:
    folder = checkpoint()
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"no \*\.safetensors file.*--load-format dummy"):
        load(folder)
    assert load(folder, load_format="dummy").description["weights"] == "random"


@pytest.mark.parametrize("damage", ["missing", "truncated", "shape"])
def test_the_fallback_is_as_strict(checkpoint: Checkpoint, damage: str) -> None:
    folder = checkpoint("GPTNeoXForCausalLM")
    name = "gpt_neox__layers__1__mlp__dense_h_to_4h__weight"
    if damage == "missing":
        change(folder, **{name: None})
    elif damage == "shape":
        change(folder, **{name: torch.zeros(95, 64)})
    else:
        path = folder / "model.safetensors"
        path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(CheckpointError, match="damaged" if damage == "truncated" else "dense_h_to_4h"):
        load(folder)
