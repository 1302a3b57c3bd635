"""What most decoders share: gated MLP, attention block, pre-norm layer, and the model around the layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch

from hardpoint.layers import Attention, Embedding, Head, ModelBuild, RMSNorm, StepContext

Layer = Callable[[torch.Tensor, torch.Tensor, StepContext], torch.Tensor]


class GatedMLP:
    """``down(act(gate(x)) * up(x))``.

    Args:
        build: the model being built.
        path: checkpoint name, e.g. ``model.layers.0.mlp``.
        inner: intermediate size.
        activation: as config.json spells it.
        bias: on all three projections.
        fused: name under ``path`` of a checkpoint's single gate-and-up projection.
        reduce: whether the result is summed over ranks here.
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
    ) -> None:
        hidden = build.config["hidden_size"]
        paths = (f"{path}.gate_proj", f"{path}.up_proj")
        self.gate_up = build.merged_linear(paths, hidden, inner, bias=bias, fused=fused and f"{path}.{fused}")
        self.act = build.gated_activation(activation)
        self.down = build.row_linear(f"{path}.down_proj", inner, hidden, bias=bias, reduce=reduce)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(self.act(self.gate_up(x)))


class SelfAttention:
    """Projection, attention, projection.

    Sizes, window and rotation come from the configuration; families differ in the rest.

    Args:
        build: the model being built.
        path: checkpoint name, e.g. ``model.layers.0.self_attn``.
        layer: the layer's number.
        qkv_bias, out_bias: on the projections.
        qk_norm: offset of a norm per head (``None`` for no norm).
        rope_by_type: whether layer types have rope parameters of their own.
        fused: name under ``path`` of a checkpoint's single projection.
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
        **options: Any,
    ) -> None:
        c = build.config
        hidden, heads, kv_heads, size = (
            c[n] for n in ("hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim")
        )
        kind = c["layer_types"][layer]
        self.qkv = build.qkv_linear(path, hidden, heads, kv_heads, size, bias=qkv_bias, fused=fused)
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
            **options,
        )
        self.out = build.head_row_linear(f"{path}.o_proj", heads, size, hidden, bias=out_bias)

    def __call__(self, x: torch.Tensor, positions: torch.Tensor, step: StepContext) -> torch.Tensor:
        return self.out(self.attention(self.qkv(x), positions, step))


class PreNormLayer:
    """``x + attention(norm(x))``, then ``x + mlp(norm(x))`` (Llama and most others).

    Called with the last block's output and the residual stream, so that each addition joins the norm behind it.
    """

    def __init__(self, build: ModelBuild, path: str, attention: Layer, mlp: Callable[[torch.Tensor], torch.Tensor],
                 wide_norms: bool = False) -> None:  # fmt: skip
        hidden, eps = build.config["hidden_size"], build.config["rms_norm_eps"]
        self.attention = attention
        self.mlp = mlp
        self.input_norm = RMSNorm(build, f"{path}.input_layernorm", hidden, eps, wide=wide_norms)
        self.post_norm = RMSNorm(build, f"{path}.post_attention_layernorm", hidden, eps, wide=wide_norms)

    def __call__(
        self, x: torch.Tensor, residual: torch.Tensor | None, positions: torch.Tensor, step: StepContext
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if residual is None:
            x, residual = self.input_norm(x), x
        else:
            x, residual = self.input_norm.add(x, residual)
        x, residual = self.post_norm.add(self.attention(x, positions, step), residual)
        return self.mlp(x), residual


class DecoderLayer(Protocol):
    """A layer that takes and returns ``(last output, residual stream)``."""

    def __call__(
        self, x: torch.Tensor, residual: torch.Tensor | None, positions: torch.Tensor, step: StepContext
    ) -> tuple[torch.Tensor, torch.Tensor]: ...


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
        self.norm = RMSNorm(build, "model.norm", hidden, c["rms_norm_eps"], self.norm_offset, wide=self.wide_norms)
        tied = c["tie_word_embeddings"]
        if tied:
            build.ignored.append(r"^lm_head\.weight$")
        self.head = Head(
            build, "lm_head", vocab, hidden, self.embed if tied else None, soft_cap=c.get("final_logit_softcapping")
        )

    def layer(self, build: ModelBuild, path: str, index: int) -> DecoderLayer:
        """Return one layer."""
        raise NotImplementedError

    def embed_scale(self, build: ModelBuild) -> float | None:
        """Return the factor on embeddings."""
        return None

    def __call__(self, input_ids: torch.Tensor, positions: torch.Tensor, step: StepContext) -> torch.Tensor:
        x, residual = self.embed(input_ids), None
        for layer in self.layers:
            x, residual = layer(x, residual, positions, step)
        if residual is None:
            return self.norm(x)
        return self.norm.add(x, residual)[0]

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.head(hidden)
