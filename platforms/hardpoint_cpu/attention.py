"""Paged attention from PyTorch's CPU kernels.

The cache is [blocks, block size, 2, kv heads, head size]: one token's keys and values of all heads are one stretch of
memory, which is what a gather by slots copies fastest. Gathered pieces of a core's cache size go to PyTorch's flash
attention, which reads them with strides (no head is repeated for grouped queries) and returns the logarithm of the
softmax's denominator; pieces of one context are merged by it, and so are sinks (flash decoding; Dao et al., 2023).
"""

from __future__ import annotations

from typing import ClassVar, Final

import torch

from hardpoint.contract.attention import AttentionLayerConfig, AttentionQuery, KVLayout
from hardpoint.contract.device import Device
from hardpoint.contract.kv import DTYPE_BYTES, KVSpec
from hardpoint.contract.limits import BatchLimits
from hardpoint_cpu.kernels import attend, merge, merge_by_request, with_sinks
from hardpoint_cpu.planner import CpuPlan, CpuPlanner, DecodePlan, QueryTile

_DTYPES: Final = ("float32", "bfloat16", "float16")
#: Instruction sets with 16-bit products; elsewhere PyTorch's bfloat16 products run at a fraction of float32's rate.
_BFLOAT16_PRODUCTS: Final = frozenset({"avx512_bf16", "amx_bf16", "bf16"})


class CpuAttention:
    """The backend."""

    name: ClassVar[str] = "cpu"

    def reject(self, query: AttentionQuery) -> list[str]:
        reasons = [
            f"{what} is {dtype}; it must be one of {', '.join(_DTYPES)}"
            for what, dtype in (("dtype", query.dtype), ("the cache's dtype", query.kv_dtype))
            if dtype not in _DTYPES
        ]
        if query.num_heads % query.num_kv_heads:
            reasons.append(f"{query.num_heads} query heads are no multiple of {query.num_kv_heads} key/value heads")
        return reasons

    def block_sizes(self) -> tuple[int, ...]:
        """Return nothing: any block size does."""
        return ()

    def layout(self, spec: KVSpec, block_size: int, num_blocks: int) -> KVLayout:
        return KVLayout(
            shape=(num_blocks, block_size, 2, spec.num_kv_heads, spec.head_size),
            dtype=spec.dtype,
            block_axis=0,
            block_bytes=2 * block_size * spec.num_kv_heads * spec.head_size * DTYPE_BYTES[spec.dtype],
        )

    def planner(self, device: Device, spec: KVSpec, block_size: int, limits: BatchLimits) -> CpuPlanner:
        # A float32 model over a 16-bit cache is planned as 16-bit; its layers widen what they gather.
        compute = torch.float32
        if spec.dtype == "bfloat16" and _BFLOAT16_PRODUCTS & set(device.info.arch.split("/")):
            compute = torch.bfloat16
        return CpuPlanner(spec, compute, torch.get_num_threads())

    def layer(self, config: AttentionLayerConfig, block_size: int) -> CpuAttentionLayer:
        return CpuAttentionLayer(config)


class CpuAttentionLayer:
    """One layer's kernels."""

    def __init__(self, config: AttentionLayerConfig) -> None:
        self._config = config
        self._groups = (config.num_kv_heads, config.num_heads // config.num_kv_heads)

    def write(self, kv: torch.Tensor, k: torch.Tensor, v: torch.Tensor, slots: torch.Tensor) -> None:
        kv.flatten(0, 1).index_copy_(0, slots, torch.stack((k, v), 1).to(kv.dtype))

    def forward(self, q: torch.Tensor, kv: torch.Tensor, plan: CpuPlan, sinks: torch.Tensor | None) -> torch.Tensor:
        compute = torch.float32 if q.dtype == torch.float32 else plan.compute
        tokens = kv.flatten(0, 1)
        # [T, kv heads, queries per kv head, head size]
        grouped = q.view(len(q), *self._groups, q.shape[2]).to(compute)
        out = torch.empty(grouped.shape, dtype=q.dtype)
        sink = None if sinks is None else sinks.float().view(self._groups)
        if plan.decode is not None:
            out[: plan.decode.count] = self._decode(grouped, tokens, plan.decode, sink)
        for tile in plan.prefill:
            attended = self._prefill(grouped, tokens, tile, sink)
            out[tile.first : tile.last] = attended.permute(2, 1, 0, 3)
        return out.flatten(1, 2)

    def _decode(
        self, q: torch.Tensor, tokens: torch.Tensor, plan: DecodePlan, sink: torch.Tensor | None
    ) -> torch.Tensor:
        """Return [count, kv heads, queries per kv head, head size]; the queries of a kv head are one call's rows."""
        parts, weights = [], []
        for call in plan.calls:
            count = len(call.requests)
            keys = tokens.index_select(0, call.slots).to(q.dtype)
            k, v = keys.view(count, -1, *keys.shape[1:]).transpose(1, 3).unbind(2)
            part, weight = self._attend(q.index_select(0, call.requests), k, v, bias=call.bias)
            parts.append(part)
            weights.append(weight)
        out, lse = torch.cat(parts), torch.cat(weights)
        if plan.order is None:
            out, lse = merge_by_request(out, lse, plan.requests, plan.count)
        elif len(parts) > 1 or plan.count > 1:
            out, lse = out.index_select(0, plan.order), lse.index_select(0, plan.order)
        return out if sink is None else with_sinks(out, lse, sink)

    def _prefill(
        self, q: torch.Tensor, tokens: torch.Tensor, tile: QueryTile, sink: torch.Tensor | None
    ) -> torch.Tensor:
        """Return [queries per kv head, kv heads, tokens, head size]; a kv head is shared along the first axis."""
        rows = q[tile.first : tile.last].permute(2, 1, 0, 3)
        out, lse = None, None
        for keys in tile.keys:
            k, v = tokens.index_select(0, keys.slots).to(q.dtype).permute(1, 2, 0, 3).unsqueeze(1)
            k, v = (side.expand(len(rows), -1, -1, -1) for side in (k, v))
            part, weight = self._attend(rows, k, v, causal=keys.causal, bias=keys.bias)
            out, lse = (part, weight) if out is None or lse is None else merge(out, lse, part, weight)
        assert out is not None
        assert lse is not None
        return out if sink is None else with_sinks(out, lse, sink.t().unsqueeze(-1))

    def _attend(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        *,
        causal: bool = False,
        bias: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return attend(q, k, v, scale=self._config.scale, soft_cap=self._config.soft_cap, causal=causal, bias=bias)
