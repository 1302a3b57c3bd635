"""Llama, and those that differ from it in a few settings only: Mistral, Qwen 2, Qwen 3, Phi-3.

Llama: Touvron et al., 2023. Mistral: Jiang et al., 2023 (sliding window). Qwen 2: biases on q, k and v. Qwen 3: a norm on
each head of q and k. Phi-3 and Phi-4: the checkpoint fuses q, k, v and gate, up; part of a head may rotate.
"""

from __future__ import annotations

from hardpoint.layers import ModelBuild
from hardpoint_models.blocks import Decoder, DecoderLayer, GatedMLP, PreNormLayer, SelfAttention


class Llama(Decoder):
    """LlamaForCausalLM."""

    def layer(self, build: ModelBuild, path: str, index: int) -> DecoderLayer:
        c = build.config
        bias, mlp_bias = bool(c.get("attention_bias")), bool(c.get("mlp_bias"))
        attention = SelfAttention(build, f"{path}.self_attn", index, qkv_bias=bias, out_bias=bias)
        mlp = GatedMLP(build, f"{path}.mlp", c["intermediate_size"], c["hidden_act"], bias=mlp_bias)
        return PreNormLayer(build, path, attention, mlp)


class Mistral(Decoder):
    """MistralForCausalLM."""

    def layer(self, build: ModelBuild, path: str, index: int) -> DecoderLayer:
        attention = SelfAttention(build, f"{path}.self_attn", index)
        mlp = GatedMLP(build, f"{path}.mlp", build.config["intermediate_size"], build.config["hidden_act"])
        return PreNormLayer(build, path, attention, mlp)


class Qwen2(Decoder):
    """Qwen2ForCausalLM."""

    def layer(self, build: ModelBuild, path: str, index: int) -> DecoderLayer:
        attention = SelfAttention(build, f"{path}.self_attn", index, qkv_bias=True)
        mlp = GatedMLP(build, f"{path}.mlp", build.config["intermediate_size"], build.config["hidden_act"])
        return PreNormLayer(build, path, attention, mlp)


class Qwen3(Decoder):
    """Qwen3ForCausalLM."""

    def layer(self, build: ModelBuild, path: str, index: int) -> DecoderLayer:
        c = build.config
        bias = bool(c.get("attention_bias"))
        attention = SelfAttention(build, f"{path}.self_attn", index, qkv_bias=bias, out_bias=bias, qk_norm=0.0)
        return PreNormLayer(
            build, path, attention, GatedMLP(build, f"{path}.mlp", c["intermediate_size"], c["hidden_act"])
        )


class Phi3(Decoder):
    """Phi3ForCausalLM; Phi-4 and Phi-4-mini name the same architecture."""

    def layer(self, build: ModelBuild, path: str, index: int) -> DecoderLayer:
        c = build.config
        attention = SelfAttention(build, f"{path}.self_attn", index, fused="qkv_proj")
        mlp = GatedMLP(build, f"{path}.mlp", c["intermediate_size"], c["hidden_act"], fused="gate_up_proj")
        return PreNormLayer(build, path, attention, mlp)
