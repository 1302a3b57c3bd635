"""What checkpoints of each family leave out of config.json. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hardpoint.contract.errors import UnsupportedModelError
from hardpoint.weights.standard import FULL, SLIDING, standard, text_config


def llama(raw: Mapping[str, Any], folder: Path, trust: bool) -> dict[str, Any]:
    """Llama: no windows."""
    config = standard(raw, {"hidden_act": "silu", "rms_norm_eps": 1e-6, "max_position_embeddings": 2048})
    return {**config, "sliding_window": None, "layer_types": [FULL] * config["num_hidden_layers"]}


def mistral(raw: Mapping[str, Any], folder: Path, trust: bool) -> dict[str, Any]:
    """Mistral: a window in every layer unless it is null; 4096 when the file is silent."""
    defaults = {"hidden_act": "silu", "rms_norm_eps": 1e-6, "sliding_window": 4096, "num_key_value_heads": 8}
    return standard(raw, defaults)


def qwen(raw: Mapping[str, Any], folder: Path, trust: bool) -> dict[str, Any]:
    """Qwen 2 and 3: a window only when ``use_sliding_window``, from layer ``max_window_layers`` on."""
    nested = text_config(raw)
    window = nested.get("sliding_window", 4096) if nested.get("use_sliding_window") else None
    first = nested.get("max_window_layers", 28)
    types = nested.get("layer_types") or [
        SLIDING if window is not None and i >= first else FULL for i in range(nested.get("num_hidden_layers") or 0)
    ]
    defaults = {"hidden_act": "silu", "rms_norm_eps": 1e-6, "num_key_value_heads": 32}
    return standard({**nested, "sliding_window": window, "layer_types": types}, defaults)


def qwen3(raw: Mapping[str, Any], folder: Path, trust: bool) -> dict[str, Any]:
    """Qwen 3: heads of 128 elements when the file is silent."""
    nested = text_config(raw)
    return qwen({"head_dim": 128, **nested}, folder, trust)


def phi3(raw: Mapping[str, Any], folder: Path, trust: bool) -> dict[str, Any]:
    """Phi-3: early files call their scaling ``su`` or ``yarn`` and mean longrope."""
    config = standard(raw, {"hidden_act": "silu", "rms_norm_eps": 1e-5, "original_max_position_embeddings": 4096})
    if config["rope_parameters"]["rope_type"] in ("su", "yarn"):
        config["rope_parameters"]["rope_type"] = "longrope"
    return config


def olmo2(raw: Mapping[str, Any], folder: Path, trust: bool) -> dict[str, Any]:
    """OLMo 2: no windows."""
    return llama({"rms_norm_eps": 1e-5, **text_config(raw)}, folder, trust)


def _alternating(nested: Mapping[str, Any], every: int) -> list[str]:
    """Return layer types in which each ``every``-th layer is full and the others slide."""
    return [SLIDING if (i + 1) % every else FULL for i in range(nested.get("num_hidden_layers") or 0)]


_GEMMA = {
    "hidden_activation": "gelu_pytorch_tanh",
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
    "query_pre_attn_scalar": 256,
    "head_dim": 256,
    "num_key_value_heads": 4,
    "num_attention_heads": 8,
    "sliding_window": 4096,
}


def gemma2(raw: Mapping[str, Any], folder: Path, trust: bool) -> dict[str, Any]:
    """Gemma 2: every other layer slides; caps on scores and logits."""
    nested = text_config(raw)
    _refuse_bidirectional(nested)
    defaults = {
        **_GEMMA,
        "max_position_embeddings": 8192,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
        "layer_types": _alternating(nested, 2),
    }
    return standard(nested, defaults)


def gemma3(raw: Mapping[str, Any], folder: Path, trust: bool) -> dict[str, Any]:
    """Gemma 3 text: every sixth layer is full; sliding layers rotate with a base of their own and no scaling."""
    nested = text_config(raw)
    _refuse_bidirectional(nested)
    defaults = {
        **_GEMMA,
        "vocab_size": 262_208,
        "max_position_embeddings": 131_072,
        "layer_types": _alternating(nested, nested.get("sliding_window_pattern", 6)),
    }
    rope = nested.get("rope_parameters") or {}
    if FULL not in rope and SLIDING not in rope:
        scaling = nested.get("rope_scaling") or rope
        rope = {
            FULL: {"rope_theta": nested.get("rope_theta", 1e6), **scaling},
            SLIDING: {"rope_theta": nested.get("rope_local_base_freq", 1e4)},
        }
    return standard({**nested, "rope_parameters": rope, "rope_scaling": None}, defaults)


def _refuse_bidirectional(nested: Mapping[str, Any]) -> None:
    if nested.get("use_bidirectional_attention"):
        raise UnsupportedModelError(
            "use_bidirectional_attention is true: the model is an encoder and generates no text"
        )


def mixtral(raw: Mapping[str, Any], folder: Path, trust: bool) -> dict[str, Any]:
    """Mixtral: a window in every layer when there is one."""
    defaults = {
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "num_key_value_heads": 8,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "rope_theta": 1e6,
    }
    return standard(raw, defaults)


def _experts(nested: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration in which the number of experts has one name."""
    count = nested.get("num_experts", nested.get("num_local_experts"))
    return dict(nested) if count is None else {**nested, "num_experts": count}


def qwen2_moe(raw: Mapping[str, Any], folder: Path, trust: bool) -> dict[str, Any]:
    """Qwen 2 MoE: routed experts in every ``decoder_sparse_step``-th layer, one shared expert beside them."""
    nested = _experts(text_config(raw))
    window = nested.get("sliding_window", 4096) if nested.get("use_sliding_window") else None
    first = nested.get("max_window_layers", 28)
    types = nested.get("layer_types") or [
        SLIDING if window is not None and (i + 1) % 2 and i < first else FULL
        for i in range(nested.get("num_hidden_layers") or 0)
    ]
    defaults = {
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "num_key_value_heads": 16,
        "num_experts": 60,
        "num_experts_per_tok": 4,
        "norm_topk_prob": False,
        "moe_intermediate_size": 1408,
        "shared_expert_intermediate_size": 5632,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "qkv_bias": True,
    }
    return standard({**nested, "sliding_window": window, "layer_types": types}, defaults)


def qwen3_moe(raw: Mapping[str, Any], folder: Path, trust: bool) -> dict[str, Any]:
    """Qwen 3 MoE: no shared expert; a window in every layer when ``use_sliding_window``."""
    nested = _experts(text_config(raw))
    window = nested.get("sliding_window", 4096) if nested.get("use_sliding_window") else None
    defaults = {
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "num_key_value_heads": 4,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "norm_topk_prob": False,
        "moe_intermediate_size": 768,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    }
    return standard({**nested, "sliding_window": window}, defaults)


def gpt_oss(raw: Mapping[str, Any], folder: Path, trust: bool) -> dict[str, Any]:
    """gpt-oss: every other layer slides over 128 tokens."""
    nested = text_config(raw)
    defaults = {
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "head_dim": 64,
        "num_key_value_heads": 8,
        "num_local_experts": 128,
        "num_experts_per_tok": 4,
        "sliding_window": 128,
        "attention_bias": True,
        "swiglu_alpha": 1.702,
        "swiglu_limit": 7.0,
        "max_position_embeddings": 131_072,
        "rope_theta": 150_000.0,
        "layer_types": _alternating(nested, 2),
    }
    if nested.get("rope_parameters") is None and nested.get("rope_scaling") is None:
        yarn = {"rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False}
        nested = {**nested, "rope_parameters": {**yarn, "original_max_position_embeddings": 4096}}
    return standard(nested, defaults)


def of_transformers(raw: Mapping[str, Any], folder: Path, trust: bool) -> dict[str, Any]:
    """Any other model: as ``transformers`` reads its file."""
    from hardpoint_models.hf import hf_config, refuse_by_config, standard_of

    config = hf_config(raw, folder, trust)
    refuse_by_config(config, raw["architectures"][0])
    return standard_of(config)
