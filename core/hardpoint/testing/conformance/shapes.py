"""The model that platforms are asked about where the suite needs limits without a checkpoint."""

from __future__ import annotations

from typing import Final

from hardpoint.contract.platform import ModelShape

SHAPE: Final = ModelShape(
    architecture="LlamaForCausalLM",
    num_layers=2,
    hidden_size=64,
    num_heads=4,
    num_kv_heads=2,
    head_size=16,
    vocab_size=24,
    context=512,
    dtype="float32",
)
