"""OLMo 2 (OLMo team, 2024): norms behind attention and MLP, and over the whole query and key projections."""

from __future__ import annotations

import torch

from hardpoint.layers import Attention, ModelBuild, Parameter, RMSNorm, StepContext
from hardpoint.layers.parameters import along, copied
from hardpoint_models.blocks import Decoder, DecoderLayer, GatedMLP


class ProjectionNorm:
    """A norm over all heads of a projection that is split over ranks by heads."""

    def __init__(self, build: ModelBuild, path: str, slices: list[slice], size: int, eps: float, total: int) -> None:
        # The weight is held in the order in which gathering puts the ranks' heads, shared ones repeated.
        bounds = [(heads.start * size, heads.stop * size) for heads in slices]
        width = bounds[0][1] - bounds[0][0]
        self.weight = build.empty((width * len(bounds),), torch.float32)
        self.eps = eps
        self.start, self.stop = width * build.comm.rank, width * (build.comm.rank + 1)
        self._norm = build.ops.rms_norm
        self._all_gather = build.comm.all_gather if build.comm.size > 1 else None
        name = f"{path}.weight"
        pieces = tuple(
            copied(self.weight[i * width : (i + 1) * width], name, (total,), along((total,), 0, *bound))
            for i, bound in enumerate(bounds)
        )
        build.parameters.append(Parameter(name, self.weight, (pieces,), fill="ones"))

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if self._all_gather is None:
            return self._norm(x, self.weight, self.eps)
        whole = self._all_gather(x.contiguous(), dim=-1)
        return self._norm(whole, self.weight, self.eps)[:, self.start : self.stop]


class Olmo2Attention:
    """Attention whose queries and keys are normed before they are cut into heads."""

    def __init__(self, build: ModelBuild, path: str) -> None:
        c = build.config
        hidden, heads, kv_heads, size = (
            c[n] for n in ("hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim")
        )
        bias, eps = bool(c.get("attention_bias")), c["rms_norm_eps"]
        ranks = [build.heads(heads, kv_heads, rank) for rank in range(build.comm.size)]
        self.qkv = build.qkv_linear(path, hidden, heads, kv_heads, size, bias=bias)
        self.q_norm = ProjectionNorm(build, f"{path}.q_norm", [q for q, _ in ranks], size, eps, heads * size)
        self.k_norm = ProjectionNorm(build, f"{path}.k_norm", [kv for _, kv in ranks], size, eps, kv_heads * size)
        self.attention = Attention(
            build, num_heads=heads, num_kv_heads=kv_heads, head_size=size, rotary=build.rotary(size)
        )
        self.widths = [n * size for n in (self.attention.config.num_heads, *2 * [self.attention.config.num_kv_heads])]
        self.out = build.head_row_linear(f"{path}.o_proj", heads, size, hidden, bias=bias)

    def __call__(self, x: torch.Tensor, positions: torch.Tensor, step: StepContext) -> torch.Tensor:
        q, k, v = torch.split(self.qkv(x), self.widths, -1)
        return self.out(self.attention.rotate_and_attend(self.q_norm(q), self.k_norm(k), v, positions, step))


class Olmo2Layer:
    """``x + norm(attention(x))``, then ``x + norm(mlp(x))``."""

    def __init__(self, build: ModelBuild, path: str) -> None:
        c = build.config
        hidden, eps = c["hidden_size"], c["rms_norm_eps"]
        self.attention = Olmo2Attention(build, f"{path}.self_attn")
        self.mlp = GatedMLP(build, f"{path}.mlp", c["intermediate_size"], c["hidden_act"])
        self.attention_norm = RMSNorm(build, f"{path}.post_attention_layernorm", hidden, eps, wide=True)
        self.mlp_norm = RMSNorm(build, f"{path}.post_feedforward_layernorm", hidden, eps, wide=True)

    def __call__(self, h: torch.Tensor, positions: torch.Tensor, step: StepContext) -> torch.Tensor:
        h = h + self.attention_norm(self.attention(h, positions, step))
        return h + self.mlp_norm(self.mlp(h))


class Olmo2(Decoder):
    """Olmo2ForCausalLM."""

    wide_norms = True

    def layer(self, build: ModelBuild, path: str, index: int) -> DecoderLayer:
        return Olmo2Layer(build, path)
