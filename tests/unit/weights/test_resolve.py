"""Finding a model's files and reading what they say."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from weights_rig import edit_config, files_of

from hardpoint.contract.errors import CheckpointError, ConfigError, UnsupportedModelError
from hardpoint.weights import model_shape

Checkpoint = Callable[..., Path]


def test_a_folder(checkpoint: Checkpoint) -> None:
    files = files_of(checkpoint())
    assert files.architecture == files.plugin == "LlamaForCausalLM"
    assert files.generation_config["eos_token_id"] == 2
    shape = model_shape(files)
    assert (shape.num_layers, shape.hidden_size, shape.num_heads, shape.num_kv_heads) == (2, 64, 4, 2)
    assert (shape.head_size, shape.vocab_size, shape.context, shape.dtype) == (16, 288, 256, "float32")
    assert (shape.windows, shape.num_experts) == ((), 0)


def test_windows_and_experts_are_in_the_shape(checkpoint: Checkpoint) -> None:
    shape = model_shape(files_of(checkpoint("GptOssForCausalLM")))
    assert (shape.windows, shape.num_experts) == ((16,), 4)
    assert model_shape(files_of(checkpoint("Qwen3MoeForCausalLM"))).num_experts == 8


def test_a_nested_text_configuration(checkpoint: Checkpoint) -> None:
    folder = checkpoint()
    import json

    config = json.loads((folder / "config.json").read_text())
    nested = {
        name: config.pop(name) for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
    }
    (folder / "config.json").write_text(json.dumps({**config, "text_config": {**config, **nested}}))
    files = files_of(folder, hf_overrides={"text_config": {"max_position_embeddings": 99}})
    assert model_shape(files).hidden_size == 64
    assert model_shape(files).context == 99


def test_overrides_replace_values(checkpoint: Checkpoint) -> None:
    scaling = {"rope_type": "linear", "factor": 2.0}
    files = files_of(checkpoint(), hf_overrides={"max_position_embeddings": 512, "rope_scaling": scaling})
    assert model_shape(files).context == 512
    assert files.config["rope_parameters"]["rope_type"] == "linear"
    assert files.config["rope_parameters"]["rope_theta"] == 10000.0


def test_the_element_type_comes_from_the_tensors_when_the_file_is_silent(checkpoint: Checkpoint) -> None:
    folder = checkpoint()
    edit_config(folder, dtype=...)
    assert model_shape(files_of(folder)).dtype == "float32"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": ...}, "hidden_size is missing"),
        ({"num_hidden_layers": "two"}, "num_hidden_layers is 'two'"),
        ({"vocab_size": 0}, "vocab_size is 0"),
        ({"num_key_value_heads": 3}, "4 attention heads are no multiple of 3"),
        ({"architectures": ...}, "names no architecture"),
        ({"architectures": []}, "names no architecture"),
        ({"layer_types": ["full_attention"]}, "layer_types names 1 layers of 2"),
    ],
)
def test_a_configuration_that_lacks_something(checkpoint: Checkpoint, changes: dict[str, object], message: str) -> None:
    folder = checkpoint("Qwen2ForCausalLM")
    edit_config(folder, **changes)
    with pytest.raises(CheckpointError, match=message):
        files_of(folder)


def test_a_configuration_that_is_no_json(checkpoint: Checkpoint) -> None:
    folder = checkpoint()
    (folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json cannot be read.*fetch the file again"):
        files_of(folder)
    (folder / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="holds list, not a JSON object"):
        files_of(folder)


def test_a_folder_without_a_configuration(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(CheckpointError, match=r"has no config\.json \(it holds notes\.txt\)"):
        files_of(tmp_path)


@pytest.mark.parametrize("name", ["./nowhere", "/no/such/folder", "a/b/c", "https://example.org/x", "~/nowhere-at-all"])
def test_names_that_cannot_be_anything(name: str) -> None:
    with pytest.raises(CheckpointError, match="there is no such folder, and it is no hub id"):
        files_of(name)


def test_a_file_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_text("")
    with pytest.raises(CheckpointError, match="is a file; give the folder"):
        files_of(tmp_path / "model.gguf")


def test_a_hub_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        CheckpointError, match=r"'someone/model' is no folder and not in the hub's cache.*give the folder"
    ):
        files_of("someone/model")


def test_python_code_is_fetched_only_when_trusted(monkeypatch: pytest.MonkeyPatch, checkpoint: Checkpoint) -> None:
    import huggingface_hub

    asked: list[dict[str, object]] = []
    folder = checkpoint()

    def download(repo: str, **options: object) -> str:
        asked.append({"repo": repo, **options})
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    files = files_of("someone/model", revision="abc")
    assert files.ref.revision == asked[0]["revision"] == "abc"
    assert not files.ref.trust
    files_of("someone/model", trust_remote_code=True, load_format="dummy")
    first, second = (call["allow_patterns"] for call in asked)
    assert isinstance(first, list)
    assert isinstance(second, list)
    assert "*.py" not in first
    assert "*.safetensors" in first
    assert not any("bin" in pattern or pattern.startswith("*.pt") for pattern in first)
    assert "*.py" in second
    assert "*.safetensors" not in second


def test_an_unknown_architecture(checkpoint: Checkpoint) -> None:
    folder = checkpoint()
    edit_config(folder, architectures=["NoSuchForCausalLM"], model_type="no_such")
    with pytest.raises(UnsupportedModelError, match=r"'no_such' is unknown.*newer transformers"):
        files_of(folder)
    with pytest.raises(UnsupportedModelError, match=r"no plugin runs NoSuchForCausalLM natively \(there are: .*Llama"):
        files_of(folder, model_impl="native")


def test_code_in_the_checkpoint_is_not_run_unless_trusted(checkpoint: Checkpoint) -> None:
    folder = checkpoint()
    marker = folder / "ran"
    (folder / "own.py").write_text(f"open({str(marker)!r}, 'w').close()\n")
    edit_config(folder, architectures=["OwnForCausalLM"], model_type="own", auto_map={"AutoConfig": "own.OwnConfig"})
    with pytest.raises(UnsupportedModelError, match=r"code of its own.*--trust-remote-code"):
        files_of(folder)
    assert not marker.exists()


def test_reading_a_configuration_loads_no_torch(checkpoint: Checkpoint) -> None:
    code = (
        "import sys; from hardpoint.config import EngineConfig; from hardpoint.plugins import Catalogue;"
        "from hardpoint.weights import resolve, model_shape;"
        f"print(model_shape(resolve(EngineConfig.of(model={str(checkpoint())!r}).model, Catalogue())).num_layers,"
        "'torch' in sys.modules, 'transformers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2", "False", "False"]


def test_bidirectional_gemma_is_refused(checkpoint: Checkpoint) -> None:
    folder = checkpoint("Gemma3ForCausalLM")
    edit_config(folder, use_bidirectional_attention=True)
    with pytest.raises(ConfigError, match="encoder"):
        files_of(folder)
