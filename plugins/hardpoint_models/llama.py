"""Llama, and those that differ from it in a few settings only: Mistral, Qwen 2, Qwen 3, Phi-3.

Llama: Touvron et al., 2023. Mistral: Jiang et al., 2023 (sliding window). Qwen 2: biases on q, k and v. Qwen 3: a norm on
each head of q and k. Phi-3 and Phi-4: the checkpoint fuses q, k, v and gate, up; part of a head may rotate.
"""

from __future__ import annotations

from hardpoint.layers import ModelBuild
from hardpoint_models.blocks import Decoder, DecoderLayer, GatedMLP, PreNormLayer, PreNorms, SelfAttention


class Llama(Decoder):
    """LlamaForCausalLM."""

    def layer(self, build: ModelBuild, path: str, index: int) -> DecoderLayer:
        c = build.config
        bias, mlp_bias = bool(c.get("attention_bias")), bool(c.get("mlp_bias"))
        norms = PreNorms(build, path)
        attention = SelfAttention(build, f"{path}.self_attn", index, norm=norms.attention, qkv_bias=bias, out_bias=bias)
        mlp = GatedMLP(build, f"{path}.mlp", c["intermediate_size"], c["hidden_act"], bias=mlp_bias, norm=norms.mlp)
        return PreNormLayer(attention, mlp)


class Mistral(Decoder):
    """MistralForCausalLM."""

    def layer(self, build: ModelBuild, path: str, index: int) -> DecoderLayer:
        norms = PreNorms(build, path)
        attention = SelfAttention(build, f"{path}.self_attn", index, norm=norms.attention)
        c = build.config
        mlp = GatedMLP(build, f"{path}.mlp", c["intermediate_size"], c["hidden_act"], norm=norms.mlp)
        return PreNormLayer(attention, mlp)


class Qwen2(Decoder):
    """Qwen2ForCausalLM."""

    def layer(self, build: ModelBuild, path: str, index: int) -> DecoderLayer:
        norms = PreNorms(build, path)
        attention = SelfAttention(build, f"{path}.self_attn", index, norm=norms.attention, qkv_bias=True)
        c = build.config
        mlp = GatedMLP(build, f"{path}.mlp", c["intermediate_size"], c["hidden_act"], norm=norms.mlp)
        return PreNormLayer(attention, mlp)


class Qwen3(Decoder):
    """Qwen3ForCausalLM."""

    def layer(self, build: ModelBuild, path: str, index: int) -> DecoderLayer:
        c = build.config
        bias = bool(c.get("attention_bias"))
        norms = PreNorms(build, path)
        attention = SelfAttention(
            build, f"{path}.self_attn", index, norm=norms.attention, qkv_bias=bias, out_bias=bias, qk_norm=0.0
        )
        mlp = GatedMLP(build, f"{path}.mlp", c["intermediate_size"], c["hidden_act"], norm=norms.mlp)
        return PreNormLayer(attention, mlp)


class Phi3(Decoder):
    """Phi3ForCausalLM; Phi-4 and Phi-4-mini name the same architecture."""

    def layer(self, build: ModelBuild, path: str, index: int) -> DecoderLayer:
        c = build.config
        norms = PreNorms(build, path)
        attention = SelfAttention(build, f"{path}.self_attn", index, norm=norms.attention, fused="qkv_proj")
        mlp = GatedMLP(
            build, f"{path}.mlp", c["intermediate_size"], c["hidden_act"], fused="gate_up_proj", norm=norms.mlp
        )
        return PreNormLayer(attention, mlp)
