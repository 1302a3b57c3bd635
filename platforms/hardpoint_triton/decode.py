"""Launches of decode attention: its tile sizes, its work lists and its scratch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import torch
import triton

from hardpoint.contract.attention import AttentionLayerConfig
from hardpoint.contract.kv import DTYPE_BYTES
from hardpoint_triton.cascade import SharedWork
from hardpoint_triton.decode_kernels import RECORD, decode, divide

#: Floating-point numbers that a warp holds at a time while it merges.
MERGE_ELEMENTS: Final = 2048
ROWS: Final = 16


@dataclass(frozen=True, slots=True)
class DecodeShape:
    """How decode attention is launched.

    Attributes:
        tokens: per tile.
        programs: per multiprocessor; what fits there together, so that all run at the same time.
        warps, stages: of a program.
        registers: of a thread at most, so that ``programs`` fit; 0 leaves it to the compiler.
    """

    tokens: int
    programs: int
    warps: int
    stages: int
    registers: int = 0

    def keywords(self, device: torch.device) -> dict[str, int]:
        """Return the compiler's part; AMD's knows no bound on registers."""
        bound = (
            {"maxnreg": self.registers}
            if self.registers and torch.version.hip is None and device.type == "cuda"
            else {}
        )
        return {"num_warps": self.warps, "num_stages": self.stages, **bound}


@cache
def decode_shape(head_size: int, kv_dtype: str) -> DecodeShape:
    """Return the launch for heads of ``head_size`` elements, chosen by measurement on an H200."""
    row_bytes = triton.next_power_of_2(head_size) * DTYPE_BYTES[kv_dtype]
    if row_bytes > 512:
        return DecodeShape(tokens=16, programs=2, warps=4, stages=2)
    if row_bytes > 256 or kv_dtype == "float32":
        return DecodeShape(tokens=32, programs=2, warps=4, stages=3)
    return DecodeShape(tokens=64, programs=3, warps=4, stages=3, registers=168)


@dataclass(frozen=True, slots=True)
class DecodeWork:
    """One step's decodes, divided among programs; on the device.

    Attributes:
        count: decoding requests.
        programs: of the launch.
        starts, records: see ``decode_kernels.divide``.
        counters: int32, zero between launches.
        scratch: partial results, float32; one buffer for all layers.
        shared: what requests share and is attended to first, or ``None``.
    """

    count: int
    programs: int
    starts: torch.Tensor
    records: torch.Tensor
    counters: torch.Tensor
    scratch: Scratch
    shared: SharedWork | None = None


class Scratch:
    """Memory for results under way; grows, and is never given back while a step may be replayed that uses it."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._buffers: dict[str, torch.Tensor] = {}
        self._outgrown: list[torch.Tensor] = []

    def floats(self, name: str, count: int) -> torch.Tensor:
        """Return ``count`` float32 numbers, whatever they are."""
        held = self._buffers.get(name)
        if held is None or held.numel() < count:
            if held is not None:
                self._outgrown.append(held)
            held = self._buffers[name] = torch.empty(count, dtype=torch.float32, device=self._device)
        return held[:count]


class WorkLists:
    """Makes the work lists of one KV group; their buffers keep their addresses.

    Args:
        units: multiprocessors.
        shape: of the launches.
        window: sliding window in tokens.
    """

    def __init__(
        self,
        device: torch.device,
        units: int,
        shape: DecodeShape,
        num_kv_heads: int,
        window: int | None,
        max_requests: int,
    ) -> None:
        self._device = device
        self._shape = shape
        self._num_kv_heads = num_kv_heads
        self._window = window or 0
        self._programs = units * shape.programs
        self._scratch = Scratch(device)
        self._reserve(max_requests)

    def _reserve(self, requests: int) -> None:
        self._capacity = requests
        self._starts = torch.zeros(requests + 1, dtype=torch.int32, device=self._device)
        self._records = torch.zeros(self._programs * RECORD.value, dtype=torch.int32, device=self._device)
        self._counters = torch.zeros(requests * self._num_kv_heads, dtype=torch.int32, device=self._device)

    def make(self, seq_lens: torch.Tensor, count: int, shared: SharedWork | None) -> DecodeWork:
        """Divide the first ``count`` requests of ``seq_lens``; what is shared is left out."""
        if count > self._capacity:
            self._reserve(triton.next_power_of_2(count))
        if count:
            divide[(1,)](
                seq_lens, seq_lens if shared is None else shared.skipped, self._starts, self._records,
                count, (count - 1).bit_length(), self._programs,
                KV_HEADS=self._num_kv_heads, BLOCK_N=self._shape.tokens, WINDOW=self._window,
                SKIPS=shared is not None, CHUNK=1024, PROGRAMS_PAD=triton.next_power_of_2(self._programs), num_warps=4,
            )  # fmt: skip
        return DecodeWork(count, self._programs, self._starts, self._records, self._counters, self._scratch, shared)


def launch_decode(
    config: AttentionLayerConfig,
    shape: DecodeShape,
    block_size: int,
    q: torch.Tensor,
    kv: torch.Tensor,
    out: torch.Tensor,
    work: DecodeWork,
    seq_lens: torch.Tensor,
    table: torch.Tensor,
    sinks: torch.Tensor | None,
    scales: tuple[float, float],
    keywords: Mapping[str, Any],
) -> None:
    """Attend for the first ``work.count`` requests: q, out [requests, heads, head_size], ``out`` contiguous."""
    heads, size = config.num_heads, config.head_size
    group = heads // config.num_kv_heads
    padded, wide = triton.next_power_of_2(group), max(16, triton.next_power_of_2(size))
    pieces = 2 * work.programs * group
    partial = work.scratch.floats("pieces", pieces * (size + 2))
    shared = work.shared
    splits = 0
    before = (partial, partial, partial)
    if shared is not None:
        splits, before = shared.attend(config, block_size, q, kv, table, work.scratch, scales, keywords)
    decode[(work.programs,)](
        q, kv, out, partial, partial[pieces * size :], partial[pieces * (size + 1) :], work.counters,
        work.records, work.starts, seq_lens, seq_lens if shared is None else shared.skipped, table,
        q if sinks is None else sinks, *before,
        config.scale, config.soft_cap or 1.0, *scales,
        table.stride(0), q.stride(0), *kv.stride()[:4],
        HEADS=heads, G=group, G_PAD=padded, D=size, D_PAD=wide, BLOCK_SIZE=block_size,
        BLOCK_M=max(ROWS, padded), BLOCK_N=shape.tokens, PIECES=max(1, shape.warps * MERGE_ELEMENTS // (padded * wide)),
        WINDOW=config.window or 0, SOFT_CAP=config.soft_cap is not None, SINKS=sinks is not None, SHARED_SPLITS=splits,
        PRECISION="ieee" if q.dtype == torch.float32 else "tf32",
        **shape.keywords(q.device), **keywords,
    )  # fmt: skip
