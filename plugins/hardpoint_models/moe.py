"""Mixtral (Jiang et al., 2024), Qwen 2 MoE and Qwen 3 MoE.

Checkpoints hold experts one by one (the hub's files) or stacked (``transformers`` in memory); both are read.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from hardpoint.layers import Experts, ModelBuild, MoE, Piece, RMSNorm
from hardpoint.layers.parameters import copied
from hardpoint_models.blocks import Decoder, DecoderLayer, GatedMLP, PreNormLayer, PreNorms, SelfAttention
from hardpoint_models.experts import single_experts

_QWEN = ("gate_proj", "up_proj", "down_proj")
_MIXTRAL = ("w1", "w3", "w2")


def dense_experts(
    build: ModelBuild, path: str, num_experts: int, inner: int, singles: Sequence[tuple[str, tuple[str, str, str]]]
) -> Experts:
    """Return experts read from stacked tensors under ``path``, or from single layers.

    Args:
        build: the model being built.
        path: of the stacked tensors.
        num_experts, inner: sizes.
        singles: ``(path, (gate, up, down))`` names for each way in which checkpoints spell single experts.
    """
    hidden = build.config["hidden_size"]
    experts = Experts(build, path, num_experts, hidden, inner)
    start, stop = experts.start, experts.stop
    mine, every = stop - start, slice(0, num_experts)
    stacked, down = (num_experts, 2 * inner, hidden), (num_experts, hidden, inner)
    gate_up_ways: list[tuple[Piece, ...]] = [
        tuple(
            copied(
                experts.gate_up[:, half * mine : (half + 1) * mine],
                f"{path}.gate_up_proj",
                stacked,
                (every, slice(half * inner + start, half * inner + stop), slice(0, hidden)),
            )
            for half in (0, 1)
        )
    ]
    down_ways: list[tuple[Piece, ...]] = [
        (copied(experts.down, f"{path}.down_proj", down, (every, slice(0, hidden), slice(start, stop))),)
    ]
    for single, names in singles:
        for gate_up_pieces, down_pieces in single_experts(build, experts, single, names, inner):
            gate_up_ways.append(gate_up_pieces)
            down_ways.append(down_pieces)
    experts.fill_from(build, tuple(gate_up_ways), tuple(down_ways))
    return experts


class SharedExpert:
    """``sigmoid(gate(x)) * mlp(x)``; partial over ranks like the experts it is added to."""

    def __init__(self, build: ModelBuild, path: str, inner: int) -> None:
        self.mlp = GatedMLP(build, f"{path}.shared_expert", inner, build.config["hidden_act"], reduce=False)
        self.gate = build.linear(f"{path}.shared_expert_gate", build.config["hidden_size"], 1)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.gate(x)) * self.mlp(x)


class Mixtral(Decoder):
    """MixtralForCausalLM."""

    def layer(self, build: ModelBuild, path: str, index: int) -> DecoderLayer:
        c = build.config
        count, old, new = c["num_local_experts"], f"{path}.block_sparse_moe", f"{path}.mlp"
        spellings = [(f"{old}.experts", _MIXTRAL), (f"{new}.experts", _QWEN)]
        norms = PreNorms(build, path)
        moe = MoE(
            build,
            build.linear((f"{old}.gate", f"{new}.gate"), c["hidden_size"], count),
            dense_experts(build, f"{new}.experts", count, c["intermediate_size"], spellings),
            top_k=c["num_experts_per_tok"],
            renormalize=True,
            norm=norms.mlp,
        )
        return PreNormLayer(SelfAttention(build, f"{path}.self_attn", index, norm=norms.attention), moe)


class QwenMoe(Decoder):
    """Qwen3MoeForCausalLM."""

    shared = False

    def layer(self, build: ModelBuild, path: str, index: int) -> DecoderLayer:
        norms = PreNorms(build, path)
        attention = self.attention(build, f"{path}.self_attn", index, norms.attention)
        return PreNormLayer(attention, self.mlp(build, path, index, norms.mlp))

    def attention(self, build: ModelBuild, path: str, index: int, norm: RMSNorm) -> SelfAttention:
        """Return a layer's attention."""
        bias = bool(build.config.get("attention_bias"))
        return SelfAttention(build, path, index, qkv_bias=bias, out_bias=bias, qk_norm=0.0, norm=norm)

    def mlp(self, build: ModelBuild, path: str, index: int, norm: RMSNorm) -> GatedMLP | MoE:
        """Return a layer's experts, or its plain MLP where the configuration says so."""
        c = build.config
        step, path = c["decoder_sparse_step"], f"{path}.mlp"
        if index in (c["mlp_only_layers"] or ()) or c["num_experts"] == 0 or (index + 1) % step:
            return GatedMLP(build, path, c["intermediate_size"], c["hidden_act"], norm=norm)
        router = build.linear(f"{path}.gate", c["hidden_size"], c["num_experts"])
        singles = [(f"{path}.experts", _QWEN)]
        return MoE(
            build,
            router,
            dense_experts(build, f"{path}.experts", c["num_experts"], c["moe_intermediate_size"], singles),
            top_k=c["num_experts_per_tok"],
            renormalize=bool(c["norm_topk_prob"]),
            round_weights=True,
            shared=SharedExpert(build, path, c["shared_expert_intermediate_size"]) if self.shared else None,
            norm=norm,
        )


class Qwen2Moe(QwenMoe):
    """Qwen2MoeForCausalLM."""

    shared = True

    def attention(self, build: ModelBuild, path: str, index: int, norm: RMSNorm) -> SelfAttention:
        return SelfAttention(build, path, index, qkv_bias=bool(build.config["qkv_bias"]), norm=norm)


__all__ = ["Mixtral", "Qwen2Moe", "QwenMoe", "dense_experts"]
