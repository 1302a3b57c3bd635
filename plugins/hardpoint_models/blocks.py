"""What most decoders share: gated MLP, attention block, pre-norm layer, and the model around the layers.

One residual stream runs through a model. What surrounds a product (the norm in front, activation and addition behind) is
part of the linear layer, so that a kernel may fuse it.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch

from hardpoint.layers import Attention, Embedding, Head, ModelBuild, MoE, RMSNorm, StepContext, gated_activation


class GatedMLP:
    """``residual + down(act(gate(norm(x))) * up(norm(x)))``.

    Args:
        build: the model being built.
        path: checkpoint name, e.g. ``model.layers.0.mlp``.
        inner: intermediate size.
        activation: as config.json spells it.
        bias: on all three projections.
        fused: name under ``path`` of a checkpoint's single gate-and-up projection.
        reduce: whether the result is summed over ranks here.
        norm: of the input.
    """

    def __init__(
        self,
        build: ModelBuild,
        path: str,
        inner: int,
        activation: str,
        *,
        bias: bool = False,
        fused: str | None = None,
        reduce: bool = True,
        norm: RMSNorm | None = None,
    ) -> None:
        hidden = build.config["hidden_size"]
        paths = (f"{path}.gate_proj", f"{path}.up_proj")
        fused, act = fused and f"{path}.{fused}", gated_activation(activation)
        self.down = build.row_linear(
            f"{path}.down_proj", inner, hidden, bias=bias, reduce=reduce, residual=reduce, input_activation=act
        )
        self.gate_up = build.merged_linear(
            paths,
            hidden,
            inner,
            bias=bias,
            fused=fused,
            norm=norm,
            activation=act,
            deferrable=self.down.takes_whole,
        )

    def __call__(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        return self.down(self.gate_up(x), residual)


class SelfAttention:
    """``residual + out(attention(qkv(norm(x))))``.

    Sizes, window and rotation come from the configuration; families differ in the rest.

    Args:
        build: the model being built.
        path: checkpoint name, e.g. ``model.layers.0.self_attn``.
        layer: the layer's number.
        qkv_bias, out_bias: on the projections.
        qk_norm: offset of a norm per head (``None`` for no norm).
        rope_by_type: whether layer types have rope parameters of their own.
        fused: name under ``path`` of a checkpoint's single projection.
        norm: of the input.
        options: further arguments of :class:`~hardpoint.layers.Attention`.
    """

    def __init__(
        self,
        build: ModelBuild,
        path: str,
        layer: int,
        *,
        qkv_bias: bool = False,
        out_bias: bool = False,
        qk_norm: float | None = None,
        rope_by_type: bool = False,
        fused: str | None = None,
        norm: RMSNorm | None = None,
        **options: Any,
    ) -> None:
        c = build.config
        hidden, heads, kv_heads, size = (
            c[n] for n in ("hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim")
        )
        kind = c["layer_types"][layer]
        self.qkv = build.qkv_linear(path, hidden, heads, kv_heads, size, bias=qkv_bias, fused=fused, norm=norm)
        q_norm = k_norm = None
        if qk_norm is not None:
            q_norm = RMSNorm(build, f"{path}.q_norm", size, c["rms_norm_eps"], qk_norm)
            k_norm = RMSNorm(build, f"{path}.k_norm", size, c["rms_norm_eps"], qk_norm)
        self.attention = Attention(
            build,
            num_heads=heads,
            num_kv_heads=kv_heads,
            head_size=size,
            window=c["sliding_window"] if kind == "sliding_attention" else None,
            rotary=build.rotary(size, kind if rope_by_type else None),
            q_norm=q_norm,
            k_norm=k_norm,
            path=path,
            **options,
        )
        self.out = build.head_row_linear(f"{path}.o_proj", heads, size, hidden, bias=out_bias, residual=True)

    def __call__(
        self, x: torch.Tensor, positions: torch.Tensor, step: StepContext, residual: torch.Tensor | None = None
    ) -> torch.Tensor:
        return self.out(self.attention(self.qkv(x), positions, step), residual)


class PreNorms:
    """The norms in front of a layer's attention and MLP, under the names that most checkpoints use."""

    def __init__(self, build: ModelBuild, path: str, wide: bool = False) -> None:
        hidden, eps = build.config["hidden_size"], build.config["rms_norm_eps"]
        self.attention = RMSNorm(build, f"{path}.input_layernorm", hidden, eps, wide=wide)
        self.mlp = RMSNorm(build, f"{path}.post_attention_layernorm", hidden, eps, wide=wide)


class PreNormLayer:
    """``h + attention(norm(h))``, then ``h + mlp(norm(h))`` (Llama and most others); both parts do their own norm."""

    def __init__(self, attention: SelfAttention, mlp: GatedMLP | MoE) -> None:
        self.attention = attention
        self.mlp = mlp

    def __call__(self, h: torch.Tensor, positions: torch.Tensor, step: StepContext) -> torch.Tensor:
        h = self.attention(h, positions, step, h)
        return self.mlp(h, h)


class DecoderLayer(Protocol):
    """A layer takes the residual stream [T, hidden], which it may overwrite, and returns it."""

    def __call__(self, h: torch.Tensor, positions: torch.Tensor, step: StepContext) -> torch.Tensor: ...


class Decoder:
    """Embedding, layers, norm, head: a whole model but for the layers' inside.

    A family's model derives from this and defines :meth:`layer`.
    """

    norm_offset = 0.0
    wide_norms = False

    def __init__(self, build: ModelBuild) -> None:
        c = build.config
        vocab, hidden = c["vocab_size"], c["hidden_size"]
        self.embed = Embedding(build, "model.embed_tokens", vocab, hidden, scale=self.embed_scale(build))
        self.layers = [self.layer(build, f"model.layers.{i}", i) for i in range(c["num_hidden_layers"])]
        norm = RMSNorm(build, "model.norm", hidden, c["rms_norm_eps"], self.norm_offset, wide=self.wide_norms)
        tied = c["tie_word_embeddings"]
        if tied:
            build.ignored.append(r"^lm_head\.weight$")
        cap = c.get("final_logit_softcapping")
        self.head = Head(build, "lm_head", vocab, hidden, self.embed if tied else None, soft_cap=cap, norm=norm)

    def layer(self, build: ModelBuild, path: str, index: int) -> DecoderLayer:
        """Return one layer."""
        raise NotImplementedError

    def embed_scale(self, build: ModelBuild) -> float | None:
        """Return the factor on embeddings."""
        return None

    def __call__(self, input_ids: torch.Tensor, positions: torch.Tensor, step: StepContext) -> torch.Tensor:
        h = self.embed(input_ids)
        for layer in self.layers:
            h = layer(h, positions, step)
        return h

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.head(hidden)
