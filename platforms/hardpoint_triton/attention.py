"""The attention backend ``triton``: paged attention on any GPU that Triton compiles for."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np
import torch
import triton

from hardpoint.contract.attention import AttentionLayerConfig, AttentionQuery, BatchView, HeadRotation, KVLayout
from hardpoint.contract.device import GraphSupport
from hardpoint_triton import attention_kernels, dependent, rope_kernels
from hardpoint_triton.cascade import Prefixes, PrefixFinder, SharedUploads, SharedWork
from hardpoint_triton.chunks import Chunks, divide_chunks, gather_own, gather_past, launch_dense, takes_dense
from hardpoint_triton.decode import DecodeWork, WorkLists, launch_decode
from hardpoint_triton.launch import narrow, stages

if TYPE_CHECKING:
    from hardpoint.contract.device import Device
    from hardpoint.contract.kv import KVSpec
    from hardpoint.contract.limits import BatchLimits
    from hardpoint.contract.step import Int32s

DTYPES: Final = ("float32", "float16", "bfloat16")
KV_DTYPES: Final = ("float8_e4m3fn", "float8_e5m2")
PREFILL_ROWS: Final = 128


class TritonAttention:
    """Paged attention: prefill, chunks, decode with a split context, windows, soft cap, sinks, grouped heads."""

    name: ClassVar[str] = "triton"

    def reject(self, query: AttentionQuery) -> list[str]:
        reasons = []
        if query.dtype not in DTYPES:
            reasons.append(f"computes in {', '.join(DTYPES)}, not in {query.dtype}")
        if query.kv_dtype not in (query.dtype, *KV_DTYPES):
            reasons.append(f"reads caches of the model's type, {' or '.join(KV_DTYPES)}, not of {query.kv_dtype}")
        if query.head_size > 256:
            reasons.append(f"heads of up to 256 elements fit its tiles, not {query.head_size}")
        if query.block_size % 8:
            reasons.append(f"reads blocks of a multiple of 8 tokens, not of {query.block_size}")
        return reasons

    def block_sizes(self) -> tuple[int, ...]:
        return (16, 32, 64, 128)

    def layout(self, spec: KVSpec, block_size: int, num_blocks: int) -> KVLayout:
        """Lay blocks out as [2, blocks, kv heads, block_size, head size], keys first: a head's block is contiguous."""
        return KVLayout(
            shape=(2, num_blocks, spec.num_kv_heads, block_size, spec.head_size),
            dtype=spec.dtype,
            block_axis=1,
            block_bytes=spec.token_bytes * block_size,
        )

    def planner(self, device: Device, spec: KVSpec, block_size: int, limits: BatchLimits) -> TritonPlanner:
        return TritonPlanner(device, spec, block_size, limits)

    def layer(self, config: AttentionLayerConfig, block_size: int) -> TritonLayer:
        return TritonLayer(config, block_size)


@dataclass(frozen=True, slots=True)
class TritonPlan:
    """One step for one KV group: decodes as an even division of their contexts, longer chunks cut into tiles."""

    batch: BatchView
    decodes: DecodeWork
    chunks: Chunks


class TritonPlanner:
    """Plans steps for one KV group; the tile lists of equal tile sizes are made once per step."""

    graphs = GraphSupport.DECODE

    def __init__(self, device: Device, spec: KVSpec, block_size: int, limits: BatchLimits) -> None:
        self._device = device.torch_device
        self._token_bytes = spec.token_bytes
        self._units = device.info.compute_units or 64
        self._lists = WorkLists(self._device, self._units, spec, limits.max_requests)
        # Blocks that left a window are not shared but gone.
        args = block_size, spec.num_kv_heads, spec.head_size, spec.token_bytes
        self._finders = None if spec.window is not None else (PrefixFinder(*args), PrefixFinder(*args))
        self._uploads = SharedUploads(device, limits.max_requests)
        self._staged: Prefixes | None = None

    def plan(self, batch: BatchView) -> TritonPlan:
        count = batch.num_decodes
        decodes = self._lists.make(batch.seq_lens, count, self._shared(batch))
        return TritonPlan(batch, decodes, divide_chunks(batch, self._device, self._token_bytes))

    def stage(self, rows: Int32s, block_table_host: Int32s, seq_lens_host: Int32s) -> Hashable:
        """Upload the rows' shared prefixes; the variant is the number of tiles, rounded up, or ``None``."""
        if self._finders is None:
            return None
        found = self._finders[0].find(rows, block_table_host, seq_lens_host)
        if found is None:
            return None
        if found is not self._staged:
            self._uploads.send(found)
            self._staged = found
        return triton.next_power_of_2(len(found.tiles))

    def _shared(self, batch: BatchView) -> SharedWork | None:
        count = batch.num_decodes
        if isinstance(batch.variant, int):
            return self._uploads.work(count, batch.variant, self._units)
        prepared = batch.max_query_len == 1 and not batch.block_table_host.any()
        if self._finders is None or count < 2 or prepared:
            return None
        found = self._finders[1].find(
            np.arange(count, dtype=np.int32), batch.block_table_host[:count], batch.seq_lens_host[:count]
        )
        return None if found is None else found.to(self._device, self._units)


class TritonLayer:
    """The kernels of one layer."""

    def __init__(self, config: AttentionLayerConfig, block_size: int) -> None:
        self._config = config
        self._block_size = block_size
        self._group = config.num_heads // config.num_kv_heads
        self._takes_dense = takes_dense(config)
        self._scales = (1.0, 1.0)
        self._padded = max(16, triton.next_power_of_2(config.head_size))

    def set_scales(self, k_scale: float, v_scale: float) -> None:
        self._scales = (k_scale, v_scale)

    def write(self, kv: torch.Tensor, k: torch.Tensor, v: torch.Tensor, slots: torch.Tensor) -> None:
        config = self._config
        attention_kernels.write[(k.shape[0],)](
            k, v, kv, slots, *kv.stride()[:4], k.stride(0), v.stride(0),
            1.0 / self._scales[0], 1.0 / self._scales[1],
            HEADS=config.num_kv_heads, D=config.head_size, D_PAD=self._padded, BLOCK_SIZE=self._block_size,
            num_warps=4,
        )  # fmt: skip

    def forward(self, q: torch.Tensor, kv: torch.Tensor, plan: TritonPlan, sinks: torch.Tensor | None) -> torch.Tensor:
        return self.attend(q, kv, plan, sinks, {"PDL": False})

    def forward_fused(
        self,
        qkv: torch.Tensor,
        rotation: HeadRotation,
        positions: torch.Tensor,
        slots: torch.Tensor,
        kv: torch.Tensor,
        plan: TritonPlan,
        sinks: torch.Tensor | None,
    ) -> torch.Tensor:
        config = self._config
        q, k, v = rope_kernels.norm_rope_write(
            qkv, rotation, config.num_heads, config.num_kv_heads, config.head_size, positions, slots, kv, self._scales
        )
        # The plan's lists are older than the kernel just launched, which waited for all before it.
        return self.attend(q, kv, plan, sinks, dependent.keywords(qkv.device), (k, v))

    def attend(
        self,
        q: torch.Tensor,
        kv: torch.Tensor,
        plan: TritonPlan,
        sinks: torch.Tensor | None,
        keywords: Mapping[str, Any],
        own: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Attend as ``forward`` does.

        Args:
            keywords: of decode kernels, see :mod:`hardpoint_triton.dependent`.
            own: the step's keys and values, [T, kv heads, head_size], where they are at hand.
        """
        if q.stride()[1:] != (q.shape[2], 1):
            q = q.contiguous()
        out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        batch = plan.batch
        if plan.decodes.count:
            launch_decode(
                self._config, self._block_size, q, kv, out, plan.decodes, batch.seq_lens, batch.block_table, sinks,
                self._scales, keywords,
            )  # fmt: skip
        if batch.num_decodes < batch.num_requests:
            self._attend_chunks(q, kv, out, plan, sinks, own)
        return out

    def _attend_dense(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, kv: torch.Tensor, out: torch.Tensor, plan: TritonPlan
    ) -> None:
        """Attend the chunks of ``plan.chunks.dense`` to the step's ``k`` and ``v`` and to what is gathered."""
        chunks = plan.chunks
        past = None if chunks.past is None else gather_past(kv, chunks.past, q.dtype, self._scales)
        launch_dense(self._config, q, k, v, past, out, plan.batch, chunks.dense)

    def _attend_chunks(
        self,
        q: torch.Tensor,
        kv: torch.Tensor,
        out: torch.Tensor,
        plan: TritonPlan,
        sinks: torch.Tensor | None,
        own: tuple[torch.Tensor, torch.Tensor] | None,
    ) -> None:
        config, batch, paged = self._config, plan.batch, plan.chunks.every
        if self._takes_dense:
            # A cache of another type holds rounded keys and values: what a token sees must not depend on its chunk.
            k, v = (
                own if own is not None and kv.dtype == q.dtype else gather_own(kv, batch.slots, q.dtype, self._scales)
            )
            self._attend_dense(q, k, v, kv, out, plan)
            paged = plan.chunks.paged
        most = PREFILL_ROWS // 4 if narrow() else PREFILL_ROWS if self._padded <= 128 else PREFILL_ROWS // 2
        rows = max(most, triton.next_power_of_2(self._group))
        tiles = paged.tiles(rows // self._group)
        if not tiles.count:
            return
        attention_kernels.attend[(tiles.count, config.num_kv_heads)](
            q, kv, out, batch.block_table, batch.seq_lens, batch.query_start, tiles.request, tiles.token,
            q if sinks is None else sinks,
            config.scale, config.soft_cap or 1.0, *self._scales, batch.block_table.stride(0), q.stride(0), *kv.stride()[:4],
            HEADS=config.num_heads, G=self._group, D=config.head_size, D_PAD=self._padded, BLOCK_SIZE=self._block_size,
            BLOCK_M=rows, BLOCK_N=32 if narrow() else 64, WINDOW=config.window or 0, SOFT_CAP=config.soft_cap is not None,
            SINKS=sinks is not None,
            num_warps=8 if rows * self._padded >= 128 * 128 or narrow() else 4, num_stages=stages(2 if q.dtype == torch.float32 else 3),
        )  # fmt: skip
