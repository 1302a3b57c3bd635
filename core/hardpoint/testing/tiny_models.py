"""Small checkpoints with random weights, for every architecture and rope type that is served natively.

They are written by ``transformers`` itself, so that what is read is what the world writes. Weights are spread widely
enough that the two best tokens of a step are rarely close.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import torch

VOCAB: Final = 288

_BASE: Final[dict[str, Any]] = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
}
_MOE: Final[dict[str, Any]] = {
    "moe_intermediate_size": 32,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "norm_topk_prob": True,
}
_GEMMA: Final[dict[str, Any]] = {
    "head_dim": 32,
    "query_pre_attn_scalar": 24,
    "sliding_window": 16,
    "tie_word_embeddings": True,
}

#: Architecture -> (model_type, settings beside the common ones).
ARCHITECTURES: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "LlamaForCausalLM": ("llama", {}),
    "MistralForCausalLM": ("mistral", {"sliding_window": 24}),
    "Qwen2ForCausalLM": ("qwen2", {"tie_word_embeddings": True}),
    "Qwen3ForCausalLM": ("qwen3", {"head_dim": 32}),
    "Gemma2ForCausalLM": ("gemma2", _GEMMA),
    "Gemma3ForCausalLM": ("gemma3_text", {**_GEMMA, "layer_types": ["sliding_attention"] * 2 + ["full_attention"]}),
    "Phi3ForCausalLM": ("phi3", {"original_max_position_embeddings": 64}),
    "Olmo2ForCausalLM": ("olmo2", {}),
    "MixtralForCausalLM": ("mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "Qwen2MoeForCausalLM": ("qwen2_moe", {**_MOE, "shared_expert_intermediate_size": 48, "mlp_only_layers": [1]}),
    "Qwen3MoeForCausalLM": ("qwen3_moe", {**_MOE, "head_dim": 32}),
    "GptOssForCausalLM": (
        "gpt_oss",
        {
            "head_dim": 32,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "sliding_window": 16,
            "intermediate_size": 64,
        },
    ),
    "GPTNeoXForCausalLM": ("gpt_neox", {}),
    "StableLmForCausalLM": ("stablelm", {}),
    "CohereForCausalLM": ("cohere", {"tie_word_embeddings": True, "logit_scale": 0.5}),
    "Starcoder2ForCausalLM": ("starcoder2", {"sliding_window": None}),
    "GPT2LMHeadModel": ("gpt2", {"tie_word_embeddings": True}),
    "Cohere2ForCausalLM": (
        "cohere2",
        {
            "tie_word_embeddings": True,
            "logit_scale": 0.5,
            "sliding_window": 16,
            "layer_types": ["sliding_attention"] * 2 + ["full_attention"],
        },
    ),
}

#: More of them, as written without further settings: what the fallback must not get wrong in silence.
OTHERS: Final[dict[str, str]] = {
    "OPTForCausalLM": "opt",
    "PhiForCausalLM": "phi",
    "GemmaForCausalLM": "gemma",
    "OlmoForCausalLM": "olmo",
    "Olmo3ForCausalLM": "olmo3",
    "OlmoeForCausalLM": "olmoe",
    "GraniteForCausalLM": "granite",
    "GraniteMoeForCausalLM": "granitemoe",
    "PersimmonForCausalLM": "persimmon",
    "Exaone4ForCausalLM": "exaone4",
    "SmolLM3ForCausalLM": "smollm3",
    "GlmForCausalLM": "glm",
    "Glm4MoeForCausalLM": "glm4_moe",
    "NemotronForCausalLM": "nemotron",
    "GPTBigCodeForCausalLM": "gpt_bigcode",
    "BioGptForCausalLM": "biogpt",
    "PhimoeForCausalLM": "phimoe",
    "ApertusForCausalLM": "apertus",
}

#: Those of :data:`ARCHITECTURES` that run through the ``transformers`` fallback.
FALLBACK_ARCHITECTURES: Final = (
    "GPTNeoXForCausalLM",
    "StableLmForCausalLM",
    "CohereForCausalLM",
    "Starcoder2ForCausalLM",
    "GPT2LMHeadModel",
    "Cohere2ForCausalLM",
)

_LONG: Final = {"long_factor": [1.0 + 0.5 * i for i in range(8)], "short_factor": [1.0 + 0.05 * i for i in range(8)]}

#: Name -> (architecture, settings): a model for each way to scale rotary angles.
ROPE_VARIANTS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "linear": ("LlamaForCausalLM", {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}}),
    "dynamic": (
        "LlamaForCausalLM",
        {
            "rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4},
            "max_position_embeddings": 64,
        },
    ),
    "llama3": (
        "LlamaForCausalLM",
        {
            "rope_parameters": {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
                "rope_theta": 1e3,
            }
        },
    ),
    "yarn": (
        "Qwen3ForCausalLM",
        {
            "rope_parameters": {
                "rope_type": "yarn",
                "factor": 4.0,
                "original_max_position_embeddings": 64,
                "rope_theta": 1e4,
            }
        },
    ),
    "yarn-mscale": (
        "LlamaForCausalLM",
        {
            "rope_parameters": {
                "rope_type": "yarn",
                "factor": 4.0,
                "mscale": 0.7,
                "mscale_all_dim": 1.0,
                "original_max_position_embeddings": 64,
                "rope_theta": 1e4,
            }
        },
    ),
    "longrope": (
        "Phi3ForCausalLM",
        {"rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4, **_LONG}, "max_position_embeddings": 256},
    ),
    "longrope-partial": (
        "Phi3ForCausalLM",
        {
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 1e4,
                "partial_rotary_factor": 0.75,
                **{name: values[:6] for name, values in _LONG.items()},
            },
            "partial_rotary_factor": 0.75,
        },
    ),
}


def make_tiny(architecture: str, folder: Path | str, seed: int = 0, **overrides: Any) -> Path:
    """Write a small checkpoint with random weights.

    Args:
        architecture: a key of :data:`ARCHITECTURES` or :data:`OTHERS`.
        folder: where to; made if need be.
        seed: of the weights.
        overrides: settings of the configuration.

    Returns:
        ``folder``.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    model_type, settings = ARCHITECTURES.get(architecture) or (OTHERS[architecture], {})
    chosen = {**_BASE, **settings, **overrides}
    if "layer_types" in settings and "layer_types" not in overrides:
        types, layers = settings["layer_types"], chosen["num_hidden_layers"]
        chosen["layer_types"] = [types[i % len(types)] for i in range(layers)]
    config = AutoConfig.for_model(model_type, **chosen)
    config.architectures = [architecture]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager")
        _spread(model, 1.0 if "gemma" in model_type else 0.0)
    path = Path(folder)
    model.save_pretrained(path)
    _state_architecture(path, architecture)
    return path


@torch.no_grad()
def _spread(model: torch.nn.Module, offset: float) -> None:
    """Give every tensor random values of a scale that keeps activations near one and logits apart.

    ``offset`` is what norms add to their weights.
    """
    for name, tensor in model.named_parameters():
        if tensor.dim() >= 2:
            transposed = name.endswith(("experts.gate_up_proj", "experts.down_proj"))
            fan_in = tensor.shape[-2 if transposed else -1]
            std = 1.5 * fan_in**-0.5
            if "embed" in name or "wte" in name:
                # Gemma scales embeddings by the root of their size.
                std = 0.25 if offset else 0.75
            tensor.normal_(0.0, std)
        elif "norm" in name or "ln_" in name:
            factor = tensor + 0.2 * torch.randn(tensor.shape)
            if "layers" not in name and ".h." not in name and name.endswith("weight"):
                # Behind the last norm half of the signs turn: a tied head would make every token predict itself.
                sign = torch.randint(0, 2, tensor.shape) * 2 - 1
                factor = (factor + offset) * sign - offset
            tensor.copy_(factor if name.endswith("weight") else 0.1 * factor)
        else:
            tensor.normal_(0.0, 0.2)


def _state_architecture(folder: Path, architecture: str) -> None:
    """Make config.json name the architecture, whatever the class that wrote it is called."""
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["architectures"] = [architecture]
    path.write_text(json.dumps(config, indent=2), encoding="utf-8")
