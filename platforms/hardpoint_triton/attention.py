"""The attention backend ``triton``: paged attention on any GPU that Triton compiles for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np
import torch
import triton

from hardpoint.contract.attention import AttentionLayerConfig, AttentionQuery, BatchView, KVLayout
from hardpoint.contract.device import GraphSupport
from hardpoint_triton.attention_kernels import attend, merge, write

if TYPE_CHECKING:
    from hardpoint.contract.device import Device
    from hardpoint.contract.kv import KVSpec
    from hardpoint.contract.limits import BatchLimits

DTYPES: Final = ("float32", "float16", "bfloat16")
MAX_SPLITS: Final = 32
#: Programs per multiprocessor that a decode should have; fewer leave memory bandwidth unused.
PROGRAMS_PER_UNIT: Final = 4
DECODE_ROWS: Final = 16
PREFILL_ROWS: Final = 128


class TritonAttention:
    """Paged attention: prefill, chunks, decode with a split context, windows, soft cap, sinks, grouped heads."""

    name: ClassVar[str] = "triton"

    def reject(self, query: AttentionQuery) -> list[str]:
        reasons = []
        if query.dtype not in DTYPES:
            reasons.append(f"computes in {', '.join(DTYPES)}, not in {query.dtype}")
        if query.kv_dtype not in (query.dtype, "float8_e4m3fn"):
            reasons.append(f"reads caches of the model's type or float8_e4m3fn, not of {query.kv_dtype}")
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
        return TritonPlanner(device)

    def layer(self, config: AttentionLayerConfig, block_size: int) -> TritonLayer:
        return TritonLayer(config, block_size)


@dataclass(frozen=True, slots=True)
class Tiles:
    """Which tokens the programs of one launch serve.

    Attributes:
        request, token: int32[tiles], the tile's request (-1: none) and its first token in that request's chunk.
        count: tiles.
    """

    request: torch.Tensor
    token: torch.Tensor
    count: int


@dataclass(frozen=True, slots=True)
class TritonPlan:
    """One step for one KV group: decodes as one tile each, longer chunks cut into tiles."""

    batch: BatchView
    units: int
    decodes: Tiles
    chunks: np.ndarray[Any, Any]
    device: torch.device

    def tiles_of_chunks(self, tokens: int) -> Tiles:
        """Return tiles of ``tokens`` tokens for the requests after the decodes."""
        first = self.batch.num_decodes
        counts = -(-self.chunks // tokens)
        request = np.repeat(np.arange(first, self.batch.num_requests, dtype=np.int32), counts)
        start = np.arange(len(request), dtype=np.int32) - np.repeat(np.cumsum(counts) - counts, counts)
        # The longest tiles first: the last program to start should be a short one.
        request, start = request[::-1].copy(), (start * tokens).astype(np.int32)[::-1].copy()
        both = torch.from_numpy(np.stack([request, start])).to(self.device, non_blocking=True)
        return Tiles(request=both[0], token=both[1], count=len(request))


class TritonPlanner:
    """Plans steps for one KV group; the tile lists of equal tile sizes are made once per step."""

    graphs = GraphSupport.DECODE

    def __init__(self, device: Device) -> None:
        self._device = device.torch_device
        self._units = device.info.compute_units or 64
        self._numbers = torch.arange(8192, dtype=torch.int32, device=self._device)
        self._zeros = torch.zeros(8192, dtype=torch.int32, device=self._device)

    def plan(self, batch: BatchView) -> TritonPlan:
        count = batch.num_decodes
        lengths = np.diff(batch.query_start_host[count:])
        decodes = Tiles(request=self._numbers[:count], token=self._zeros[:count], count=count)
        return TritonPlan(batch, self._units, decodes, lengths, self._device)


class TritonLayer:
    """The kernels of one layer."""

    def __init__(self, config: AttentionLayerConfig, block_size: int) -> None:
        self._config = config
        self._block_size = block_size
        self._group = config.num_heads // config.num_kv_heads
        self._padded = max(16, triton.next_power_of_2(config.head_size))

    def write(self, kv: torch.Tensor, k: torch.Tensor, v: torch.Tensor, slots: torch.Tensor) -> None:
        config = self._config
        write[(k.shape[0],)](
            k, v, kv, slots, *kv.stride()[:4], k.stride(0), v.stride(0),
            HEADS=config.num_kv_heads, D=config.head_size, D_PAD=self._padded, BLOCK_SIZE=self._block_size,
            num_warps=4,
        )  # fmt: skip

    def forward(self, q: torch.Tensor, kv: torch.Tensor, plan: TritonPlan, sinks: torch.Tensor | None) -> torch.Tensor:
        q = q.contiguous()
        out = torch.empty_like(q)
        if plan.decodes.count:
            rows = max(DECODE_ROWS, triton.next_power_of_2(self._group))
            self._launch(q, kv, out, plan, sinks, plan.decodes, rows, self._splits(plan))
        if plan.batch.num_decodes < plan.batch.num_requests:
            rows = max(PREFILL_ROWS if self._padded <= 128 else PREFILL_ROWS // 2, triton.next_power_of_2(self._group))
            tiles = plan.tiles_of_chunks(rows // self._group)
            if tiles.count:
                self._launch(q, kv, out, plan, sinks, tiles, rows, 1)
        return out

    def _splits(self, plan: TritonPlan) -> int:
        programs = plan.decodes.count * self._config.num_kv_heads
        wanted = plan.units * PROGRAMS_PER_UNIT // max(1, programs)
        return max(1, min(MAX_SPLITS, triton.next_power_of_2(wanted)))

    def _launch(
        self,
        q: torch.Tensor,
        kv: torch.Tensor,
        out: torch.Tensor,
        plan: TritonPlan,
        sinks: torch.Tensor | None,
        tiles: Tiles,
        rows: int,
        splits: int,
    ) -> None:
        config, batch = self._config, plan.batch
        heads, size = config.num_heads, config.head_size
        scratch = q.shape[0] if splits == 1 else tiles.count
        partial = q.new_empty((scratch, heads, splits, size), dtype=torch.float32) if splits > 1 else out
        numbers = q.new_empty((2, scratch, heads, splits), dtype=torch.float32) if splits > 1 else (out, out)
        attend[(tiles.count, config.num_kv_heads, splits)](
            q, kv, out, partial, numbers[0], numbers[1],
            batch.block_table, batch.seq_lens, batch.query_start, tiles.request, tiles.token,
            q if sinks is None else sinks,
            config.scale, config.soft_cap or 1.0, batch.block_table.stride(0), *kv.stride()[:4],
            HEADS=heads, G=self._group, D=size, D_PAD=self._padded, BLOCK_SIZE=self._block_size,
            BLOCK_M=rows, BLOCK_N=64 if rows > DECODE_ROWS else 128 if self._padded <= 128 else 64, SPLITS=splits,
            WINDOW=config.window or 0, SOFT_CAP=config.soft_cap is not None, SINKS=sinks is not None,
            PRECISION="ieee" if q.dtype == torch.float32 else "tf32",
            num_warps=4, num_stages=2 if q.dtype == torch.float32 else 3,
        )  # fmt: skip
        if splits > 1:
            merge[(scratch * heads,)](
                partial, numbers[0], numbers[1], out,
                D=size, D_PAD=self._padded, SPLITS=splits, S_PAD=triton.next_power_of_2(splits), num_warps=4,
            )  # fmt: skip
