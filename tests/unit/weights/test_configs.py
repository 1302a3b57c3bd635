"""The standard spelling agrees with what transformers makes of the same file, for every native family.

The files are cut down to what the hub's own files say: everything else is a default.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from hardpoint.plugins import Catalogue
from hardpoint.testing.tiny_models import ARCHITECTURES, FALLBACK_ARCHITECTURES, ROPE_VARIANTS

_SIZES = {
    "hidden_size": 128,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "vocab_size": 1000,
    "max_position_embeddings": 8192,
    "intermediate_size": 256,
}
_FACTORS = {"short_factor": [1.0] * 8, "long_factor": [2.0] * 8}

#: (architecture, what the file says beside the sizes)
FILES: list[tuple[str, dict[str, Any]]] = [
    ("LlamaForCausalLM", {"rope_theta": 500000.0, "torch_dtype": "bfloat16", "num_key_value_heads": 2}),
    ("LlamaForCausalLM", {"rope_scaling": {"type": "linear", "factor": 2.0}, "tie_word_embeddings": True}),
    ("LlamaForCausalLM", {"rope_scaling": {"type": "dynamic", "factor": 2.0}, "head_dim": 32}),
    ("MistralForCausalLM", {"sliding_window": None}),
    ("MistralForCausalLM", {"sliding_window": 4096, "num_key_value_heads": 8}),
    ("MistralForCausalLM", {}),
    ("Qwen2ForCausalLM", {"use_sliding_window": False, "sliding_window": 32768, "max_window_layers": 4,
                          "num_key_value_heads": 2, "rope_theta": 1e6}),
    ("Qwen2ForCausalLM", {"use_sliding_window": True, "sliding_window": 512, "max_window_layers": 4,
                          "num_key_value_heads": 2}),
    ("Qwen3ForCausalLM", {"num_key_value_heads": 8}),
    ("Qwen3ForCausalLM", {"num_key_value_heads": 8, "head_dim": 64,
                          "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048}}),
    ("Gemma2ForCausalLM", {"head_dim": 32}),
    ("Gemma3ForCausalLM", {"head_dim": 32, "sliding_window": 512, "sliding_window_pattern": 6, "rope_theta": 1e6,
                           "rope_local_base_freq": 1e4}),
    ("Gemma3ForCausalLM", {"rope_scaling": {"rope_type": "linear", "factor": 8.0}, "sliding_window": 1024}),
    ("Phi3ForCausalLM", {"rope_scaling": {"type": "longrope", **_FACTORS}, "original_max_position_embeddings": 4096}),
    ("Phi3ForCausalLM", {"rope_scaling": None, "sliding_window": 2047, "num_key_value_heads": 8}),
    ("Phi3ForCausalLM", {"partial_rotary_factor": 0.75, "num_key_value_heads": 2}),
    ("Olmo2ForCausalLM", {"rope_theta": 500000.0}),
    ("MixtralForCausalLM", {"rope_theta": 1e6, "sliding_window": None}),
    ("MixtralForCausalLM", {}),
    ("Qwen2MoeForCausalLM", {"num_key_value_heads": 8, "use_sliding_window": True, "sliding_window": 64,
                             "max_window_layers": 5}),
    ("Qwen2MoeForCausalLM", {"num_key_value_heads": 8}),
    ("Qwen3MoeForCausalLM", {"num_key_value_heads": 4, "head_dim": 128, "norm_topk_prob": True}),
    ("GptOssForCausalLM", {}),
    ("GptOssForCausalLM", {"rope_theta": 150000, "rope_scaling": {"rope_type": "yarn", "factor": 32.0, "truncate": False,
                           "beta_fast": 32.0, "beta_slow": 1.0, "original_max_position_embeddings": 4096}}),
]  # fmt: skip
_COMPARED = (
    "num_key_value_heads", "head_dim", "tie_word_embeddings", "rms_norm_eps", "layer_types", "hidden_act",
    "hidden_activation", "query_pre_attn_scalar", "attn_logit_softcapping", "final_logit_softcapping", "num_experts",
    "num_local_experts", "num_experts_per_tok", "norm_topk_prob", "moe_intermediate_size", "decoder_sparse_step",
    "mlp_only_layers", "shared_expert_intermediate_size", "swiglu_alpha", "swiglu_limit", "qkv_bias",
)  # fmt: skip
_ROPE = (
    "rope_type", "rope_theta", "factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor",
    "short_factor", "long_factor", "truncate",
)  # fmt: skip


@pytest.mark.parametrize(("architecture", "said"), FILES)
def test_defaults_are_those_of_transformers(architecture: str, said: dict[str, Any]) -> None:
    kind = ARCHITECTURES[architecture][0]
    raw = {"architectures": [architecture], "model_type": kind, **_SIZES, **said}
    ours = Catalogue().load("models", architecture).data["config"](raw, Path(), False)
    theirs = CONFIG_MAPPING[kind].from_dict(dict(raw))
    for name in _COMPARED:
        want = getattr(theirs, name, None)
        if name == "head_dim" and want is None:
            want = theirs.hidden_size // theirs.num_attention_heads
        if name == "num_experts" and kind in ("mixtral", "gpt_oss"):
            continue  # one of two names for the same number
        if want is not None and not (name == "num_local_experts" and name not in ours):
            assert ours.get(name) == want, name
    if getattr(theirs, "layer_types", None) is None:
        window = None if kind in ("llama", "olmo2") else theirs.sliding_window
        assert set(ours["layer_types"]) == {"full_attention" if window is None else "sliding_attention"}
    if "sliding_attention" in ours["layer_types"]:
        assert ours["sliding_window"] == theirs.sliding_window
    params = theirs.rope_parameters
    for layer_type in ("full_attention", "sliding_attention") if kind == "gemma3_text" else (None,):
        mine = ours["rope_parameters"] if layer_type is None else ours["rope_parameters"][layer_type]
        want = params if layer_type is None else params[layer_type]
        for name in _ROPE:
            if want.get(name) is not None:
                assert mine.get(name) == want[name], (layer_type, name)


def test_the_old_name_of_longrope() -> None:
    raw = {
        "architectures": ["Phi3ForCausalLM"],
        "model_type": "phi3",
        **_SIZES,
        "rope_scaling": {"type": "su", **_FACTORS},
    }
    ours = Catalogue().load("models", "Phi3ForCausalLM").data["config"](raw, Path(), False)
    assert ours["rope_parameters"]["rope_type"] == "longrope"
    assert ours["rope_parameters"]["original_max_position_embeddings"] == 4096


def test_every_native_family_is_compared() -> None:
    assert {name for name, _ in FILES} == set(ARCHITECTURES) - set(FALLBACK_ARCHITECTURES)
    assert set(ROPE_VARIANTS) >= {"linear", "dynamic", "llama3", "yarn", "longrope"}
