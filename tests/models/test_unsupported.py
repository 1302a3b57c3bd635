"""What cannot be served is refused before any weight is read, with the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from paged_harness import load

from hardpoint.contract.errors import CheckpointError, UnsupportedModelError

_SIZES: dict[str, Any] = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def write(folder: Path, model_type: str, architecture: str, **settings: Any) -> Path:
    """Write a configuration, and no weights: whoever reads weights first fails differently."""
    from transformers import AutoConfig

    config = AutoConfig.for_model(model_type, **settings)
    config.architectures = [architecture]
    config.save_pretrained(folder)
    return folder


CASES = [
    ("t5", "T5ForConditionalGeneration", {}, "encoder and a decoder"),
    ("bart", "BartForCausalLM", {}, "encoder and a decoder"),
    ("mamba", "MambaForCausalLM", {**_SIZES}, "linear_attention"),
    ("jamba", "JambaForCausalLM", {**_SIZES, "num_key_value_heads": 2}, "linear_attention"),
    ("rwkv", "RwkvForCausalLM", {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2}, "no attention heads"),
    ("bloom", "BloomForCausalLM", {"vocab_size": 64, "hidden_size": 32, "n_layer": 2, "n_head": 2,
                                   "max_position_embeddings": 64}, "does not take positions"),
    ("gpt_neo", "GPTNeoForCausalLM", {"vocab_size": 64, "hidden_size": 32, "num_layers": 2, "num_heads": 2,
                                      "attention_types": [[["global", "local"], 1]]}, "attention code of its own"),
    ("qwen3_next", "Qwen3NextForCausalLM", {**_SIZES, "num_key_value_heads": 2, "head_dim": 16}, "linear_attention"),
    ("bert", "BertForMaskedLM", {**_SIZES, "intermediate_size": 64}, "cannot run"),
    ("llama4_text", "Llama4ForCausalLM", {**_SIZES, "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 64},
     "chunked_attention"),
]  # fmt: skip


@pytest.mark.parametrize(("model_type", "architecture", "settings", "reason"), CASES)
def test_refused_with_the_reason(
    tmp_path: Path, model_type: str, architecture: str, settings: dict[str, Any], reason: str
) -> None:
    folder = write(tmp_path, model_type, architecture, **settings)
    with pytest.raises((UnsupportedModelError, CheckpointError), match=reason) as error:
        load(folder)
    assert "safetensors" not in str(error.value)


def test_dynamic_rope_in_the_fallback_is_served_within_its_length(tmp_path: Path) -> None:
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    folder = write(
        tmp_path, "stablelm", "StableLmForCausalLM", **_SIZES, intermediate_size=64, num_key_value_heads=2,
        max_position_embeddings=64, rope_parameters=rope,
    )  # fmt: skip
    with pytest.raises(UnsupportedModelError, match=r"'dynamic'.*lower --max-model-len"):
        load(folder, load_format="dummy", max_model_len=65)
    load(folder, load_format="dummy", max_model_len=64)
