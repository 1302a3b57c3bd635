"""Gemma 2 (Gemma team, 2024) and the text decoder of Gemma 3 (2025).

Norms before and behind attention and MLP, weights stored minus one, embeddings scaled by the root of the hidden size,
queries scaled by ``query_pre_attn_scalar``. Gemma 2 caps scores and logits; Gemma 3 norms heads instead, and its sliding
layers rotate with a base of their own.
"""

from __future__ import annotations

import torch

from hardpoint.layers import ModelBuild, RMSNorm, StepContext
from hardpoint_models.blocks import Decoder, DecoderLayer, GatedMLP, Layer, SelfAttention


class GemmaLayer:
    """``x + norm(attention(norm(x)))``, then ``x + norm(mlp(norm(x)))``."""

    def __init__(self, build: ModelBuild, path: str, attention: Layer) -> None:
        c = build.config
        self.attention = attention
        self.mlp = GatedMLP(build, f"{path}.mlp", c["intermediate_size"], c["hidden_activation"])
        self.input_norm, self.attention_norm, self.mlp_input_norm, self.mlp_norm = (
            RMSNorm(build, f"{path}.{name}", c["hidden_size"], c["rms_norm_eps"], offset=1.0)
            for name in (
                "input_layernorm",
                "post_attention_layernorm",
                "pre_feedforward_layernorm",
                "post_feedforward_layernorm",
            )
        )

    def __call__(
        self, x: torch.Tensor, residual: torch.Tensor | None, positions: torch.Tensor, step: StepContext
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if residual is None:
            x, residual = self.input_norm(x), x
        else:
            x, residual = self.input_norm.add(x, residual)
        x = self.attention_norm(self.attention(x, positions, step))
        x, residual = self.mlp_input_norm.add(x, residual)
        return self.mlp_norm(self.mlp(x)), residual


class Gemma2(Decoder):
    """Gemma2ForCausalLM."""

    norm_offset = 1.0

    def embed_scale(self, build: ModelBuild) -> float | None:
        return float(build.config["hidden_size"] ** 0.5)

    def layer(self, build: ModelBuild, path: str, index: int) -> DecoderLayer:
        return GemmaLayer(build, path, self.attention(build, f"{path}.self_attn", index))

    def attention(self, build: ModelBuild, path: str, index: int) -> SelfAttention:
        """Return a layer's attention."""
        c = build.config
        bias = bool(c.get("attention_bias"))
        return SelfAttention(
            build,
            path,
            index,
            qkv_bias=bias,
            out_bias=bias,
            scale=c["query_pre_attn_scalar"] ** -0.5,
            soft_cap=c.get("attn_logit_softcapping"),
        )


class Gemma3(Gemma2):
    """Gemma3ForCausalLM."""

    def attention(self, build: ModelBuild, path: str, index: int) -> SelfAttention:
        c = build.config
        bias = bool(c.get("attention_bias"))
        return SelfAttention(
            build,
            path,
            index,
            qkv_bias=bias,
            out_bias=bias,
            qk_norm=1.0,
            rope_by_type=True,
            scale=c["query_pre_attn_scalar"] ** -0.5,
        )
