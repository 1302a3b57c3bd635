"""Paged attention written for reading: the meaning against which backends are tested, and a backend that runs anywhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from hardpoint.contract.attention import AttentionLayerConfig, AttentionQuery, BatchView, KVLayout
from hardpoint.contract.device import GraphSupport

if TYPE_CHECKING:
    from hardpoint.contract.device import Device
    from hardpoint.contract.kv import KVSpec
    from hardpoint.contract.limits import BatchLimits


class ReferenceAttention:
    """An attention backend that gathers each request's cache and attends in float32, one request after the other."""

    name: ClassVar[str] = "reference"

    def reject(self, query: AttentionQuery) -> list[str]:
        """Accept everything whose cache has the model's type."""
        if query.kv_dtype != query.dtype:
            return [f"stores the cache in the model's type ({query.dtype}), not in {query.kv_dtype}"]
        return []

    def block_sizes(self) -> tuple[int, ...]:
        """Take any block size."""
        return ()

    def layout(self, spec: KVSpec, block_size: int, num_blocks: int) -> KVLayout:
        """Lay blocks out as [2, blocks, block_size, kv heads, head size], keys first."""
        return KVLayout(
            shape=(2, num_blocks, block_size, spec.num_kv_heads, spec.head_size),
            dtype=spec.dtype,
            block_axis=1,
            block_bytes=spec.token_bytes * block_size,
        )

    def planner(self, device: Device, spec: KVSpec, block_size: int, limits: BatchLimits) -> ReferencePlanner:
        """Return a planner that passes the batch on."""
        return ReferencePlanner()

    def layer(self, config: AttentionLayerConfig, block_size: int) -> ReferenceLayer:
        """Return the kernels of one layer."""
        return ReferenceLayer(config, block_size)


class ReferencePlanner:
    """The plan is the batch."""

    graphs = GraphSupport.NONE

    def plan(self, batch: BatchView) -> BatchView:
        """Return ``batch``."""
        return batch


@dataclass(frozen=True, slots=True)
class ReferenceLayer:
    """One layer: see :class:`hardpoint.contract.attention.AttentionLayer`."""

    config: AttentionLayerConfig
    block_size: int

    def write(self, kv: torch.Tensor, k: torch.Tensor, v: torch.Tensor, slots: torch.Tensor) -> None:
        """Store keys and values at their slots."""
        flat = kv.flatten(1, 2)
        flat[0, slots] = k.to(kv.dtype)
        flat[1, slots] = v.to(kv.dtype)

    def forward(self, q: torch.Tensor, kv: torch.Tensor, plan: Any, sinks: torch.Tensor | None) -> torch.Tensor:
        """Attend, request by request."""
        batch: BatchView = plan
        out = torch.empty_like(q)
        starts, lengths = batch.query_start_host.tolist(), batch.seq_lens_host.tolist()
        for row in range(batch.num_requests):
            first, last, length = starts[row], starts[row + 1], lengths[row]
            blocks = batch.block_table[row, : -(-length // self.block_size)].long()
            keys, values = kv[:, blocks].flatten(1, 2)[:, :length].float()
            out[first:last] = self._attend(q[first:last].float(), keys, values, sinks).to(q.dtype)
        return out

    def _attend(
        self, q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, sinks: torch.Tensor | None
    ) -> torch.Tensor:
        config, queries, length = self.config, q.shape[0], keys.shape[0]
        repeats = config.num_heads // config.num_kv_heads
        keys, values = keys.repeat_interleave(repeats, 1), values.repeat_interleave(repeats, 1)
        scores = torch.einsum("qhd,khd->hqk", q, keys) * config.scale
        if config.soft_cap is not None:
            scores = config.soft_cap * torch.tanh(scores / config.soft_cap)
        position = torch.arange(length - queries, length, device=q.device)[:, None]
        key = torch.arange(length, device=q.device)[None, :]
        hidden = key > position
        if config.window is not None:
            hidden |= key <= position - config.window
        scores = scores.masked_fill(hidden, -torch.inf)
        if sinks is not None:
            sink = sinks.float()[:, None, None].expand(-1, queries, 1)
            scores = torch.cat((scores, sink), -1)
        weights = torch.softmax(scores, -1)[..., :length]
        return torch.einsum("hqk,khd->qhd", weights, values)
