"""gpt-oss (OpenAI, 2025): sinks, biases, alternating windows, experts in mxfp4 or bfloat16."""

from __future__ import annotations

from functools import partial

import torch

from hardpoint.layers import Experts, ModelBuild, MoE, Piece, Source
from hardpoint.layers.parameters import copied
from hardpoint_models.blocks import Decoder, DecoderLayer, PreNormLayer, PreNorms, SelfAttention
from hardpoint_models.mxfp4 import BLOCK, dequantize


def gpt_oss_experts(build: ModelBuild, path: str) -> Experts:
    """Return experts whose gate and up rows alternate, from ``[E, in, out]`` tensors or from mxfp4 blocks."""
    c = build.config
    count, hidden, inner = c["num_local_experts"], c["hidden_size"], c["intermediate_size"]
    experts = Experts(build, path, count, hidden, inner, bias=True)
    start, stop = experts.start, experts.stop
    every, rows = slice(0, count), slice(2 * start, 2 * stop)
    transpose = partial(torch.transpose, dim0=1, dim1=2)

    up, down = f"{path}.gate_up_proj", f"{path}.down_proj"
    plain_up = Source(up, (count, hidden, 2 * inner), (every, slice(0, hidden), rows))
    plain_down = Source(down, (count, inner, hidden), (every, slice(start, stop), slice(0, hidden)))
    assert experts.gate_up_bias is not None
    assert experts.down_bias is not None
    experts.fill_from(
        build,
        (
            (Piece(experts.gate_up, (plain_up,), transpose),),
            tuple(
                _quantized(experts.gate_up[e], up, e, (count, 2 * inner, hidden), rows, slice(0, hidden))
                for e in range(count)
            ),
        ),
        (
            (Piece(experts.down, (plain_down,), transpose),),
            tuple(
                _quantized(experts.down[e], down, e, (count, hidden, inner), slice(0, hidden), slice(start, stop))
                for e in range(count)
            ),
        ),
        ((copied(experts.gate_up_bias, f"{up}_bias", (count, 2 * inner), (every, rows)),),),
        ((copied(experts.down_bias, f"{down}_bias", (count, hidden)),),),
    )
    return experts


def _quantized(
    target: torch.Tensor, name: str, expert: int, shape: tuple[int, int, int], rows: slice, columns: slice
) -> Piece:
    """Return the piece that dequantizes one expert's rows and columns from ``_blocks`` and ``_scales``."""
    count, out_features, in_features = shape
    one, groups = slice(expert, expert + 1), -(-in_features // BLOCK)
    # A rank's columns may begin inside a block: whole blocks are read, the rest is cut off after decoding.
    first, last = columns.start // BLOCK, -(-columns.stop // BLOCK)
    blocks = Source(
        f"{name}_blocks",
        (count, out_features, groups, BLOCK // 2),
        (one, rows, slice(first, last), slice(0, BLOCK // 2)),
    )
    scales = Source(f"{name}_scales", (count, out_features, groups), (one, rows, slice(first, last)))
    offset = columns.start - first * BLOCK

    def decode(packed: torch.Tensor, exponents: torch.Tensor) -> torch.Tensor:
        dense = dequantize(packed[0], exponents[0], target.dtype)
        return dense[:, offset : offset + target.shape[1]]

    return Piece(target, (blocks, scales), decode)


class GptOss(Decoder):
    """GptOssForCausalLM."""

    wide_norms = True

    def layer(self, build: ModelBuild, path: str, index: int) -> DecoderLayer:
        c = build.config
        bias = bool(c["attention_bias"])
        norms = PreNorms(build, path, wide=True)
        attention = SelfAttention(
            build,
            f"{path}.self_attn",
            index,
            qkv_bias=bias,
            out_bias=bias,
            sinks=f"{path}.self_attn.sinks",
            norm=norms.attention,
        )
        moe = MoE(
            build,
            build.linear(f"{path}.mlp.router", c["hidden_size"], c["num_local_experts"], bias=True),
            gpt_oss_experts(build, f"{path}.mlp.experts"),
            top_k=c["num_experts_per_tok"],
            renormalize=False,
            score="softmax_of_chosen",
            activation="swiglu_oai",
            limits={"alpha": float(c["swiglu_alpha"]), "limit": float(c["swiglu_limit"])},
            round_weights=True,
            norm=norms.mlp,
        )
        return PreNormLayer(attention, moe)


__all__ = ["GptOss", "gpt_oss_experts"]
