"""Writing a trained network as a transformers checkpoint in bfloat16."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from hardpoint_demo.network import Shape


def save_model(shape: Shape, parameters: dict[str, Tensor], folder: Path, eos: int, pad: int) -> None:
    """Write config.json, generation_config.json and model.safetensors; the saved weights are rounded to bfloat16."""
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_size,
        max_position_embeddings=shape.context,
        rms_norm_eps=shape.epsilon,
        rope_parameters={"rope_type": "default", "rope_theta": shape.theta},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=eos,
        pad_token_id=pad,
    )
    model = LlamaForCausalLM(config)
    weights = {name: value.detach().cpu() for name, value in parameters.items()}
    missing, unexpected = model.load_state_dict(weights, strict=False)
    if set(missing) - {"lm_head.weight"} or unexpected:
        raise ValueError(f"parameters do not fit the architecture: {missing=} {unexpected=}")
    model.tie_weights()
    model = model.to(torch.bfloat16)
    model.generation_config = GenerationConfig(do_sample=False, eos_token_id=eos, pad_token_id=pad)
    model.save_pretrained(folder)
