"""Two attention backends over one cache: one for prompts, one for decodes."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from hardpoint.contract.attention import (
    AttentionBackend,
    AttentionLayer,
    AttentionLayerConfig,
    AttentionPlanner,
    AttentionQuery,
    BatchView,
    FusedAttentionLayer,
    HeadRotation,
    KVLayout,
    StagedPlanner,
)
from hardpoint.contract.step import Int32s

if TYPE_CHECKING:
    from hardpoint.contract.device import Device
    from hardpoint.contract.kv import KVSpec
    from hardpoint.contract.limits import BatchLimits


class SplitAttention:
    """Sends a step's decodes to one backend and its chunks to another. Both must lay the cache out in the same way.

    Args:
        prefill: serves chunks.
        decode: serves decodes, and owns the cache's layout.
    """

    def __init__(self, prefill: AttentionBackend, decode: AttentionBackend) -> None:
        self.name = f"{prefill.name} for prompts, {decode.name} for decodes"
        self._prefill = prefill
        self._decode = decode

    def reject(self, query: AttentionQuery) -> list[str]:
        """Return the reasons of both, and whether their layouts differ."""
        reasons = [
            f"{backend.name} {reason}" for backend in (self._prefill, self._decode) for reason in backend.reject(query)
        ]
        return reasons or layouts_differ(self._prefill, self._decode, query)

    def block_sizes(self) -> tuple[int, ...]:
        """Return the sizes that both take, in the order of the decoding one."""
        decode, prefill = self._decode.block_sizes(), self._prefill.block_sizes()
        return tuple(size for size in decode if not prefill or size in prefill) if decode else prefill

    def layout(self, spec: KVSpec, block_size: int, num_blocks: int) -> KVLayout:
        return self._decode.layout(spec, block_size, num_blocks)

    def planner(self, device: Device, spec: KVSpec, block_size: int, limits: BatchLimits) -> AttentionPlanner:
        prefill = self._prefill.planner(device, spec, block_size, limits)
        decode = self._decode.planner(device, spec, block_size, limits)
        if isinstance(decode, StagedPlanner):
            return StagedSplitPlanner(prefill, decode)
        return SplitPlanner(prefill, decode)

    def layer(self, config: AttentionLayerConfig, block_size: int) -> AttentionLayer:
        prefill, decode = self._prefill.layer(config, block_size), self._decode.layer(config, block_size)
        if isinstance(prefill, FusedAttentionLayer) and isinstance(decode, FusedAttentionLayer):
            return FusedSplitLayer(prefill, decode)
        return SplitLayer(prefill, decode)


def layouts_differ(one: AttentionBackend, other: AttentionBackend, query: AttentionQuery) -> list[str]:
    """Return why two backends cannot share a cache of ``query``'s kind; empty when they can."""
    from hardpoint.contract.kv import KVSpec

    spec = KVSpec(num_kv_heads=query.num_kv_heads, head_size=query.head_size, dtype=query.kv_dtype, window=query.window)
    first, second = (backend.layout(spec, query.block_size, 2) for backend in (one, other))
    if first == second:
        return []
    return [f"{one.name} lays the cache out as {first.shape}, {other.name} as {second.shape}: they cannot share it"]


@dataclass(frozen=True, slots=True)
class SplitPlan:
    """Plans of the two parts of a step; ``None`` for a part that is empty.

    Attributes:
        at: decodes, which come first.
    """

    at: int
    decodes: Any
    chunks: Any


class SplitPlanner:
    """Plans the parts of a step separately."""

    def __init__(self, prefill: AttentionPlanner, decode: AttentionPlanner) -> None:
        self.graphs = decode.graphs
        self._prefill = prefill
        self._decode = decode

    def plan(self, batch: BatchView) -> SplitPlan:
        at = batch.num_decodes
        if at == batch.num_requests:
            return SplitPlan(at, self._decode.plan(batch), None)
        if not at:
            return SplitPlan(at, None, self._prefill.plan(batch))
        return SplitPlan(at, self._decode.plan(_part(batch, 0, at)), self._prefill.plan(_part(batch, at, None)))


class StagedSplitPlanner(SplitPlanner):
    """Passes stages on to a decoding planner that has them."""

    def __init__(self, prefill: AttentionPlanner, decode: StagedPlanner) -> None:
        super().__init__(prefill, decode)
        self.stage: Callable[[Int32s, Int32s, Int32s], Hashable] = decode.stage


def _part(batch: BatchView, first: int, stop: int | None) -> BatchView:
    """Return the batch of the requests from ``first`` to ``stop``."""
    stop = batch.num_requests if stop is None else stop
    start_host = batch.query_start_host[first : stop + 1]
    low, high = int(start_host[0]), int(start_host[-1])
    start = batch.query_start[first : stop + 1]
    lengths = batch.seq_lens_host[first:stop]
    return replace(
        batch,
        num_requests=stop - first,
        num_decodes=0 if first else stop,
        num_tokens=high - low,
        query_start=start - low if low else start,
        query_start_host=start_host - low,
        seq_lens=batch.seq_lens[first:stop],
        seq_lens_host=lengths,
        block_table=batch.block_table[first:stop],
        block_table_host=batch.block_table_host[first:stop],
        slots=batch.slots[low:high],
        max_query_len=int((start_host[1:] - start_host[:-1]).max()),
        max_seq_len=int(lengths.max()),
    )


class SplitLayer:
    """One layer's kernels of both backends."""

    def __init__(self, prefill: AttentionLayer, decode: AttentionLayer) -> None:
        self._prefill = prefill
        self._decode = decode

    def write(self, kv: torch.Tensor, k: torch.Tensor, v: torch.Tensor, slots: torch.Tensor) -> None:
        self._decode.write(kv, k, v, slots)

    def forward(self, q: torch.Tensor, kv: torch.Tensor, plan: SplitPlan, sinks: torch.Tensor | None) -> torch.Tensor:
        if plan.chunks is None:
            return self._decode.forward(q, kv, plan.decodes, sinks)
        if plan.decodes is None:
            return self._prefill.forward(q, kv, plan.chunks, sinks)
        first = self._decode.forward(q[: plan.at], kv, plan.decodes, sinks)
        return torch.cat((first, self._prefill.forward(q[plan.at :], kv, plan.chunks, sinks)))


class FusedSplitLayer(SplitLayer):
    """The same where both backends take the projection."""

    _prefill: FusedAttentionLayer
    _decode: FusedAttentionLayer

    def forward_fused(
        self,
        qkv: torch.Tensor,
        rotation: HeadRotation,
        positions: torch.Tensor,
        slots: torch.Tensor,
        kv: torch.Tensor,
        plan: SplitPlan,
        sinks: torch.Tensor | None,
    ) -> torch.Tensor:
        if plan.chunks is None:
            return self._decode.forward_fused(qkv, rotation, positions, slots, kv, plan.decodes, sinks)
        if plan.decodes is None:
            return self._prefill.forward_fused(qkv, rotation, positions, slots, kv, plan.chunks, sinks)
        at = plan.at
        first = self._decode.forward_fused(qkv[:at], rotation, positions[:at], slots[:at], kv, plan.decodes, sinks)
        rest = self._prefill.forward_fused(qkv[at:], rotation, positions[at:], slots[at:], kv, plan.chunks, sinks)
        return torch.cat((first, rest))
