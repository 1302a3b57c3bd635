"""Launches of decode attention: its tile sizes, its work lists and its scratch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from typing import Any, Final

import torch
import triton

from hardpoint.contract.attention import AttentionLayerConfig
from hardpoint.contract.kv import DTYPE_BYTES, KVSpec
from hardpoint_triton.cascade import SharedWork
from hardpoint_triton.decode_kernels import RECORD, decode, divide, join
from hardpoint_triton.launch import narrow, registers, stages

#: Up to so many requests, a further launch merges pieces: many programs share what the last one would do alone.
JOINED_REQUESTS: Final = 1024
#: Up to so many requests count as few for ``decode_shape``.
FEW_REQUESTS: Final = 2
#: Kinds of 8-bit caches, see ``decode_kernels.decode``.
NARROW: Final = {torch.float8_e4m3fn: 1, torch.float8_e5m2: 2}
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

    def keywords(self, device: torch.device, rows: int) -> dict[str, int]:
        """Return the compiler's part for tiles of ``rows`` queries; more than usual need more registers."""
        most = self.registers if rows == ROWS else 0
        return {"num_warps": self.warps, "num_stages": stages(self.stages), **registers(device, most)}


@cache
def decode_shape(head_size: int, kv_dtype: str, *, few: bool = False, shared: bool = False) -> DecodeShape:
    """Return the launch for heads of ``head_size`` elements, chosen by measurement on an H200.

    Few requests are cut into fewer, larger pieces, since merging them takes longer than reading. What is left of contexts
    whose beginning is shared is short: more and smaller programs hide how each of them starts. So they do for 8-bit caches,
    whose elements cost more to unpack than to read.
    """
    row_bytes = triton.next_power_of_2(head_size) * DTYPE_BYTES[kv_dtype]
    if row_bytes > 512:
        return DecodeShape(tokens=16, programs=2, warps=4, stages=2)
    if row_bytes > 256 or kv_dtype == "float32":
        return DecodeShape(tokens=32, programs=2, warps=4, stages=3)
    if narrow():
        return DecodeShape(tokens=16, programs=2, warps=4, stages=2)
    if few:
        return DecodeShape(tokens=128, programs=2, warps=4, stages=2)
    if shared or DTYPE_BYTES[kv_dtype] == 1:
        return DecodeShape(tokens=32, programs=6, warps=2, stages=3, registers=168)
    return DecodeShape(tokens=64, programs=3, warps=4, stages=3, registers=168)


class Join(IntEnum):
    """Who merges the pieces of a request and key/value head, see ``decode_kernels.decode``."""

    LAST = 0
    PIECES = 1
    ALL = 2


@dataclass(frozen=True, slots=True)
class DecodeWork:
    """One step's decodes, divided among programs; on the device.

    Attributes:
        count: decoding requests.
        shape, programs: of the launch.
        join: who merges.
        starts, records: see ``decode_kernels.divide``.
        counters: int32, zero between launches.
        scratch: partial results, float32; one buffer for all layers.
        shared: what requests share and is attended to first, or ``None``.
    """

    count: int
    shape: DecodeShape
    programs: int
    join: Join
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
        spec: of the group's layers.
        max_requests: of a step; more are taken, at new addresses.
    """

    def __init__(self, device: torch.device, units: int, spec: KVSpec, max_requests: int) -> None:
        self._device = device
        self._units = units
        self._num_kv_heads = spec.num_kv_heads
        self._window = spec.window or 0
        self._narrow = DTYPE_BYTES[spec.dtype] == 1
        self._plain = decode_shape(spec.head_size, spec.dtype)
        self._few = decode_shape(spec.head_size, spec.dtype, few=True)
        self._shared = decode_shape(spec.head_size, spec.dtype, shared=True)
        most = units * max(shape.programs for shape in (self._plain, self._few, self._shared))
        self._records = torch.zeros(most * RECORD.value, dtype=torch.int32, device=device)
        self._scratch = Scratch(device)
        self._reserve(max_requests)

    def _reserve(self, requests: int) -> None:
        self._capacity = requests
        self._starts = torch.zeros(requests + 1, dtype=torch.int32, device=self._device)
        self._counters = torch.zeros(requests * self._num_kv_heads, dtype=torch.int32, device=self._device)

    def make(self, seq_lens: torch.Tensor, count: int, shared: SharedWork | None) -> DecodeWork:
        """Divide the first ``count`` requests of ``seq_lens``; what is shared is left out."""
        if count > self._capacity:
            self._reserve(triton.next_power_of_2(count))
        shape = self._shared if shared is not None else self._few if count <= FEW_REQUESTS else self._plain
        programs = self._units * shape.programs
        if count:
            divide[(1,)](
                seq_lens, seq_lens if shared is None else shared.skipped, self._starts, self._records,
                count, (count - 1).bit_length(), programs,
                KV_HEADS=self._num_kv_heads, BLOCK_N=shape.tokens, WINDOW=self._window,
                SKIPS=shared is not None, CHUNK=1024, PROGRAMS_PAD=triton.next_power_of_2(programs), num_warps=4,
            )  # fmt: skip
        join = Join.PIECES if self._narrow or count <= JOINED_REQUESTS else Join.LAST
        if shared is not None:
            join = Join.ALL
        return DecodeWork(
            count, shape, programs, join, self._starts, self._records, self._counters, self._scratch, shared
        )


def launch_decode(
    config: AttentionLayerConfig,
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
    heads, size, kv_heads = config.num_heads, config.head_size, config.num_kv_heads
    group = heads // kv_heads
    shape, shared, narrow = work.shape, work.shared, NARROW.get(kv.dtype, 0)
    padded, wide = triton.next_power_of_2(group), max(32 if narrow else 16, triton.next_power_of_2(size))
    height = max(ROWS, padded)
    pieces = (2 * work.programs + (work.count * kv_heads if work.join == Join.ALL else 0)) * group
    partial = work.scratch.floats("pieces", pieces * (size + 2))
    partials = partial, partial[pieces * size :], partial[pieces * (size + 1) :]
    splits, before = 0, partials
    if shared is not None:
        splits, before = shared.attend(config, block_size, q, kv, table, work.scratch, scales, keywords)
    skipped = seq_lens if shared is None else shared.skipped
    pairs = kv.view(torch.int16) if narrow else kv
    decode[(work.programs,)](
        q, pairs, out, *partials, work.counters, work.records, work.starts, seq_lens, skipped, table,
        q if sinks is None else sinks,
        config.scale, config.soft_cap or 1.0, *scales, table.stride(0), q.stride(0), *pairs.stride()[:4],
        HEADS=heads, G=group, G_PAD=padded, D=size, D_PAD=wide, BLOCK_SIZE=block_size,
        BLOCK_M=height, BLOCK_N=shape.tokens, PIECES=max(1, shape.warps * MERGE_ELEMENTS // (padded * wide)),
        WINDOW=config.window or 0, SOFT_CAP=config.soft_cap is not None, SINKS=sinks is not None,
        NARROW=narrow, ASM=q.is_cuda and torch.version.hip is None, JOIN=int(work.join), SHARED=shared is not None,
        **shape.keywords(q.device, height), **keywords,
    )  # fmt: skip
    if work.join != Join.LAST:
        many = work.programs >= 4 * work.count * kv_heads
        join[(work.count, heads)](
            *partials, *before, out, work.starts, skipped, work.count, work.programs,
            HEADS=heads, G=group, D=size, D_PAD=wide, PIECES=16 if many else 4,
            SHARED_SPLITS=splits, SPLITS_PAD=max(1, splits), num_warps=4 if many else 1, **keywords,
        )  # fmt: skip
