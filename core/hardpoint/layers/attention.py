"""Attention over the paged cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from hardpoint.contract.attention import (
    AttentionLayerConfig,
    FusedAttentionLayer,
    HeadRotation,
    ScaledAttentionLayer,
)
from hardpoint.contract.errors import ConfigError
from hardpoint.contract.kv import DTYPE_BYTES, KVSpec
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
        path: checkpoint name, e.g. ``model.layers.0.self_attn``, under which a checkpoint may have scales of an 8-bit cache.
    """

    __slots__ = ("_forward_fused", "_layer", "_qk_norm_rope", "_rotate", "_scales", "config", "group", "kv", "kv_spec", "rotation",
                 "sinks")  # fmt: skip

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
        path: str = "",
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
        self.rotation = HeadRotation(
            q_weight=None if q_norm is None else q_norm.weight,
            k_weight=None if k_norm is None else k_norm.weight,
            eps=0.0 if q_norm is None else q_norm.spec.eps,
            offset=0.0 if q_norm is None else q_norm.spec.offset,
            cos_sin=rotary,
            interleaved=interleaved,
        )
        self._qk_norm_rope = build.ops.qk_norm_rope
        self._rotate = build.ops.rotary
        self._layer = build.attention_layer(self.config)
        self._forward_fused = self._layer.forward_fused if isinstance(self._layer, FusedAttentionLayer) else None
        self._scales = _scales(build, path) if path and DTYPE_BYTES[build.kv_dtype] == 1 else None
        self.group = 0
        self.kv: torch.Tensor | None = None
        build.attention_layers.append(self)

    def finish(self) -> None:
        """Hand the checkpoint's scales to the kernels. Called once, after loading."""
        if self._scales is None:
            return
        k_scale, v_scale = self._scales.tolist()
        if isinstance(self._layer, ScaledAttentionLayer):
            self._layer.set_scales(k_scale, v_scale)
        elif (k_scale, v_scale) != (1.0, 1.0):
            raise ConfigError(
                f"the checkpoint scales the keys and values of an 8-bit cache (layer {self.config.layer}: {k_scale:g}, "
                f"{v_scale:g}), which this attention backend cannot; choose another --attention-backend or leave "
                "--kv-cache-dtype at auto"
            )

    def bind(self, kv: torch.Tensor, group: int) -> None:
        """Give the layer its cache (in the backend's layout) and its KV group."""
        self.kv = kv
        self.group = group

    def __call__(self, qkv: torch.Tensor, positions: torch.Tensor, step: StepContext) -> torch.Tensor:
        """Attend from a fused projection [T, (heads + 2 kv heads) * head_size]; returns [T, heads * head_size]."""
        config, rotation = self.config, self.rotation
        if self._forward_fused is not None:
            slots, plan = step.slots[self.group], step.plans[self.group]
            return self._forward_fused(qkv, rotation, positions, slots, self._bound(), plan, self.sinks).flatten(1)
        q, k, v = self._qk_norm_rope(
            qkv,
            config.num_heads,
            config.num_kv_heads,
            config.head_size,
            rotation.q_weight,
            rotation.k_weight,
            rotation.eps,
            rotation.offset,
            positions,
            rotation.cos_sin,
            rotation.interleaved,
        )
        return self.attend(q, k, v, step)

    def rotate_and_attend(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, positions: torch.Tensor, step: StepContext
    ) -> torch.Tensor:
        """Attend from separate projections [T, heads * head_size] that the model normed itself."""
        size = self.config.head_size
        tokens = q.shape[0]
        q, k, v = (x.reshape(tokens, -1, size) for x in (q, k, v))
        if self.rotation.cos_sin is not None:
            q, k = self._rotate(q, k, positions, self.rotation.cos_sin, self.rotation.interleaved)
        return self.attend(q, k, v, step)

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, step: StepContext) -> torch.Tensor:
        """Store the keys and values of the step, then attend. All are [T, heads, head_size]."""
        kv = self._bound()
        self._layer.write(kv, k, v, step.slots[self.group])
        return self._layer.forward(q, kv, step.plans[self.group], self.sinks).flatten(1)

    def _bound(self) -> torch.Tensor:
        if self.kv is None:
            raise ConfigError(f"attention layer {self.config.layer} has no cache; bind() comes before the first step")
        return self.kv


def _scales(build: ModelBuild, path: str) -> torch.Tensor:
    """Return float32 [2], filled with the checkpoint's scales of keys and values where it has them, else ones."""
    scales = torch.ones(2)
    for at, side in enumerate("kv"):
        target = scales[at : at + 1]
        names = (f"{path}.{side}_proj.{side}_scale", f"{path}.{side}_scale", f"{path}.attn.{side}_scale")
        ways = tuple((copied(target, name, (1,)),) for name in names)
        build.parameters.append(Parameter(names[0], target, ways, fill="ones", optional=True))
    return scales
