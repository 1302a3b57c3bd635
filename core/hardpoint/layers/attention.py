"""Attention over the paged cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from hardpoint.contract.attention import AttentionLayerConfig
from hardpoint.contract.errors import ConfigError
from hardpoint.contract.kv import KVSpec
from hardpoint.layers.parameters import Parameter, along, copied

if TYPE_CHECKING:
    from hardpoint.layers.build import ModelBuild
    from hardpoint.layers.norm import RMSNorm
    from hardpoint.layers.step import StepContext


class Attention:
    """One layer's attention on one rank: heads from the fused projection, norms, rotation, cache, kernel.

    Args:
        build: the model being built.
        num_heads, num_kv_heads: of the whole layer.
        head_size: elements per head.
        scale: factor on query-key products; ``head_size ** -0.5`` by default.
        window: sliding window in tokens, the current one included; dropped where no sequence can outgrow it.
        soft_cap: cap on scores (Gemma 2).
        sinks: checkpoint name of a learned logit per head (gpt-oss).
        rotary: table of :func:`~hardpoint.layers.rotary.cos_sin_table`; ``None`` for a layer without rotation.
        interleaved: whether rotated pairs are neighbours.
        q_norm, k_norm: norms per head (Qwen 3, Gemma 3).
    """

    __slots__ = ("_eps", "_interleaved", "_k_weight", "_layer", "_offset", "_q_weight", "_qk_norm_rope", "_rotary", "_rotate",
                 "config", "group", "kv", "kv_spec", "sinks")  # fmt: skip

    def __init__(
        self,
        build: ModelBuild,
        *,
        num_heads: int,
        num_kv_heads: int,
        head_size: int,
        scale: float | None = None,
        window: int | None = None,
        soft_cap: float | None = None,
        sinks: str | None = None,
        rotary: torch.Tensor | None = None,
        interleaved: bool = False,
        q_norm: RMSNorm | None = None,
        k_norm: RMSNorm | None = None,
    ) -> None:
        heads, kv_heads = build.heads(num_heads, num_kv_heads)
        self.config = AttentionLayerConfig(
            layer=len(build.attention_layers),
            num_heads=heads.stop - heads.start,
            num_kv_heads=kv_heads.stop - kv_heads.start,
            head_size=head_size,
            scale=head_size**-0.5 if scale is None else scale,
            window=window if window is not None and window < build.max_model_len else None,
            soft_cap=soft_cap,
            sinks=sinks is not None,
        )
        self.kv_spec = KVSpec(
            num_kv_heads=self.config.num_kv_heads,
            head_size=head_size,
            dtype=build.kv_dtype,
            window=self.config.window,
        )
        self.sinks: torch.Tensor | None = None
        if sinks is not None:
            self.sinks = build.empty((self.config.num_heads,))
            piece = copied(self.sinks, sinks, (num_heads,), along((num_heads,), 0, heads.start, heads.stop))
            build.parameters.append(Parameter(sinks, self.sinks, ((piece,),)))
        self._qk_norm_rope = build.ops.qk_norm_rope
        self._q_weight = None if q_norm is None else q_norm.weight
        self._k_weight = None if k_norm is None else k_norm.weight
        self._eps = 0.0 if q_norm is None else q_norm.eps
        self._offset = 0.0 if q_norm is None else q_norm.offset
        self._rotate = build.ops.rotary
        self._rotary = rotary
        self._interleaved = interleaved
        self._layer = build.attention_layer(self.config)
        self.group = 0
        self.kv: torch.Tensor | None = None
        build.attention_layers.append(self)

    def bind(self, kv: torch.Tensor, group: int) -> None:
        """Give the layer its cache (in the backend's layout) and its KV group."""
        self.kv = kv
        self.group = group

    def __call__(self, qkv: torch.Tensor, positions: torch.Tensor, step: StepContext) -> torch.Tensor:
        """Attend from a fused projection [T, (heads + 2 kv heads) * head_size]; returns [T, heads * head_size]."""
        config = self.config
        q, k, v = self._qk_norm_rope(
            qkv,
            config.num_heads,
            config.num_kv_heads,
            config.head_size,
            self._q_weight,
            self._k_weight,
            self._eps,
            self._offset,
            positions,
            self._rotary,
            self._interleaved,
        )
        return self.attend(q, k, v, step)

    def rotate_and_attend(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, positions: torch.Tensor, step: StepContext
    ) -> torch.Tensor:
        """Attend from separate projections [T, heads * head_size] that the model normed itself."""
        size = self.config.head_size
        tokens = q.shape[0]
        q, k, v = (x.reshape(tokens, -1, size) for x in (q, k, v))
        if self._rotary is not None:
            q, k = self._rotate(q, k, positions, self._rotary, self._interleaved)
        return self.attend(q, k, v, step)

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, step: StepContext) -> torch.Tensor:
        """Store the keys and values of the step, then attend. All are [T, heads, head_size]."""
        kv = self.kv
        if kv is None:
            raise ConfigError(f"attention layer {self.config.layer} has no cache; bind() comes before the first step")
        self._layer.write(kv, k, v, step.slots[self.group])
        return self._layer.forward(q, kv, step.plans[self.group], self.sinks).flatten(1)
