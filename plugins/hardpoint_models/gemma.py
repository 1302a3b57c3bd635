"""Gemma 2 (Gemma team, 2024) and the text decoder of Gemma 3 (2025).

Norms before and behind attention and MLP, weights stored minus one, embeddings scaled by the root of the hidden size,
queries scaled by ``query_pre_attn_scalar``. Gemma 2 caps scores and logits; Gemma 3 norms heads instead, and its sliding
layers rotate with a base of their own.
"""

from __future__ import annotations

import torch

from hardpoint.layers import ModelBuild, RMSNorm, StepContext
from hardpoint_models.blocks import Decoder, DecoderLayer, GatedMLP, SelfAttention


class GemmaLayer:
    """``h + norm(attention(norm(h)))``, then ``h + norm(mlp(norm(h)))``; the inner norms belong to attention and MLP."""

    def __init__(self, build: ModelBuild, path: str, attention: SelfAttention, mlp: GatedMLP) -> None:
        self.attention = attention
        self.mlp = mlp
        self.attention_norm = gemma_norm(build, f"{path}.post_attention_layernorm")
        self.mlp_norm = gemma_norm(build, f"{path}.post_feedforward_layernorm")

    def __call__(self, h: torch.Tensor, positions: torch.Tensor, step: StepContext) -> torch.Tensor:
        h = h + self.attention_norm(self.attention(h, positions, step))
        return h + self.mlp_norm(self.mlp(h))


def gemma_norm(build: ModelBuild, path: str) -> RMSNorm:
    """Return a norm whose weight is stored minus one."""
    return RMSNorm(build, path, build.config["hidden_size"], build.config["rms_norm_eps"], offset=1.0)


class Gemma2(Decoder):
    """Gemma2ForCausalLM."""

    norm_offset = 1.0

    def embed_scale(self, build: ModelBuild) -> float | None:
        return float(build.config["hidden_size"] ** 0.5)

    def layer(self, build: ModelBuild, path: str, index: int) -> DecoderLayer:
        c = build.config
        norm = gemma_norm(build, f"{path}.pre_feedforward_layernorm")
        mlp = GatedMLP(build, f"{path}.mlp", c["intermediate_size"], c["hidden_activation"], norm=norm)
        norm = gemma_norm(build, f"{path}.input_layernorm")
        return GemmaLayer(build, path, self.attention(build, f"{path}.self_attn", index, norm), mlp)

    def attention(self, build: ModelBuild, path: str, index: int, norm: RMSNorm) -> SelfAttention:
        """Return a layer's attention."""
        c = build.config
        bias = bool(c.get("attention_bias"))
        return SelfAttention(
            build,
            path,
            index,
            qkv_bias=bias,
            out_bias=bias,
            norm=norm,
            scale=c["query_pre_attn_scalar"] ** -0.5,
            soft_cap=c.get("attn_logit_softcapping"),
        )


class Gemma3(Gemma2):
    """Gemma3ForCausalLM."""

    def attention(self, build: ModelBuild, path: str, index: int, norm: RMSNorm) -> SelfAttention:
        c = build.config
        bias = bool(c.get("attention_bias"))
        return SelfAttention(
            build,
            path,
            index,
            qkv_bias=bias,
            out_bias=bias,
            norm=norm,
            qk_norm=1.0,
            rope_by_type=True,
            scale=c["query_pre_attn_scalar"] ** -0.5,
        )
