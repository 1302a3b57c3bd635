"""Paged attention: blocks of 24 tokens laid out [blocks, kv heads, head size, 24, 2], slots in int32.

Norm, rotation and the store of keys and values are one program (``forward_fused``), as the N1 has no other way to rotate.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from hardpoint.contract.attention import (
    AttentionLayerConfig,
    AttentionQuery,
    BatchView,
    HeadRotation,
    KVLayout,
)
from hardpoint.contract.device import GraphSupport
from hardpoint.ops.rotary import qk_norm_rope
from hardpoint_acme import driver

if TYPE_CHECKING:
    from hardpoint.contract.device import Device
    from hardpoint.contract.kv import KVSpec
    from hardpoint.contract.limits import BatchLimits

BLOCK_SIZE = 24


class AcmeAttention:
    """The backend."""

    name = "acme"

    def reject(self, query: AttentionQuery) -> list[str]:
        reasons = []
        if query.dtype != "bfloat16":
            reasons.append(f"computes in bfloat16, not in {query.dtype}")
        if query.kv_dtype != query.dtype:
            reasons.append(f"stores the cache in bfloat16, not in {query.kv_dtype}")
        if query.block_size != BLOCK_SIZE:
            reasons.append(f"reads blocks of {BLOCK_SIZE} tokens, not of {query.block_size}")
        if query.head_size % 8:
            reasons.append(f"reads heads of a multiple of 8 elements, not of {query.head_size}")
        if query.sinks:
            reasons.append("knows no sinks")
        return reasons

    def block_sizes(self) -> tuple[int, ...]:
        return (BLOCK_SIZE,)

    def layout(self, spec: KVSpec, block_size: int, num_blocks: int) -> KVLayout:
        return KVLayout(
            shape=(num_blocks, spec.num_kv_heads, spec.head_size, block_size, 2),
            dtype=spec.dtype,
            block_axis=0,
            block_bytes=spec.token_bytes * block_size,
            slot_dtype="int32",
        )

    def planner(self, device: Device, spec: KVSpec, block_size: int, limits: BatchLimits) -> AcmePlanner:
        return AcmePlanner()

    def layer(self, config: AttentionLayerConfig, block_size: int) -> AcmeLayer:
        return AcmeLayer(config)


class AcmePlanner:
    """The plan is the batch."""

    graphs = GraphSupport.NONE

    def plan(self, batch: BatchView) -> BatchView:
        return batch


class AcmeLayer:
    """One layer.

    Args:
        config: of the layer.
    """

    def __init__(self, config: AttentionLayerConfig) -> None:
        self._config = config

    def write(self, kv: torch.Tensor, k: torch.Tensor, v: torch.Tensor, slots: torch.Tensor) -> None:
        if slots.dtype != torch.int32:
            raise driver.DriverError(f"slots are int32 on the N1, not {slots.dtype}")
        blocks, offsets = slots.long() // BLOCK_SIZE, slots.long() % BLOCK_SIZE
        kv[blocks, :, :, offsets, 0] = k
        kv[blocks, :, :, offsets, 1] = v

    def forward_fused(
        self,
        qkv: torch.Tensor,
        rotation: HeadRotation,
        positions: torch.Tensor,
        slots: torch.Tensor,
        kv: torch.Tensor,
        plan: Any,
        sinks: torch.Tensor | None,
    ) -> torch.Tensor:
        config, r = self._config, rotation
        q, k, v = qk_norm_rope(
            qkv, config.num_heads, config.num_kv_heads, config.head_size, r.q_weight, r.k_weight, r.eps, r.offset,
            positions, r.cos_sin, r.interleaved,
        )  # fmt: skip
        self.write(kv, k, v, slots)
        return self.forward(q, kv, plan, sinks)

    def forward(self, q: torch.Tensor, kv: torch.Tensor, plan: Any, sinks: torch.Tensor | None) -> torch.Tensor:
        batch: BatchView = plan
        out = torch.zeros_like(q)
        starts, lengths = batch.query_start_host.tolist(), batch.seq_lens_host.tolist()
        for row in range(batch.num_requests):
            first, last, length = starts[row], starts[row + 1], lengths[row]
            blocks = batch.block_table[row, : -(-length // BLOCK_SIZE)].long()
            # [blocks, heads, size, 24, 2] -> [2, tokens, heads, size]
            keys, values = kv[blocks].permute(4, 0, 3, 1, 2).flatten(1, 2)[:, :length].float()
            out[first:last] = self._attend(q[first:last].float(), keys, values).to(q.dtype)
        return out

    def _attend(self, q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        config, (count, length) = self._config, (len(q), len(keys))
        group = config.num_heads // config.num_kv_heads
        keys, values = keys.repeat_interleave(group, 1), values.repeat_interleave(group, 1)
        scores = torch.einsum("qhd,khd->hqk", q, keys) * config.scale
        if config.soft_cap is not None:
            scores = config.soft_cap * torch.tanh(scores / config.soft_cap)
        position, key = torch.arange(length - count, length)[:, None], torch.arange(length)[None, :]
        hidden = key > position
        if config.window is not None:
            hidden |= key <= position - config.window
            # Slots that left the window may hold anything.
            values = values.masked_fill(hidden.all(0)[:, None, None], 0)
        return torch.einsum("hqk,khd->qhd", torch.softmax(scores.masked_fill(hidden, -torch.inf), -1), values)
