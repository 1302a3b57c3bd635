"""From a batch to slots: which cache slots each call of a kernel reads, worked out once per step and KV group.

The cache is gathered slot by slot, so only slots that hold a visible token of the right request are ever read; what is in
other slots, other blocks or the ends of block tables cannot reach a result, not even as ``0 * NaN``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from hardpoint.contract.attention import BatchView
from hardpoint.contract.device import GraphSupport
from hardpoint.contract.kv import KVSpec

#: Gathered keys and values of one call per thread: still near the core when the products read it, and enough work for a
#: call. Measured on Zen 4 (1 MiB per core, 32 MiB shared): half as much is 15 % slower, twice as much 5 %.
CHUNK_BYTES: Final = 2 << 20
#: Gathered keys and values of one prefill call, which reads them many times.
TILE_BYTES: Final = 16 << 20
#: Elements of one sliding-window mask, at most.
MASK_ELEMENTS: Final = 1 << 20

Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Partitions:
    """Equally long stretches of decoding requests' contexts, attended to in one call.

    Attributes:
        slots: int64[count * size], cache slots; a shorter stretch repeats its last slot.
        requests: int64[count], whose query each stretch meets.
        bias: float32[count, 1, 1, size], 0 or minus infinity at repeated slots; ``None`` when there are none.
    """

    slots: torch.Tensor
    requests: torch.Tensor
    bias: torch.Tensor | None


@dataclass(frozen=True, slots=True)
class DecodePlan:
    """Requests with one query each.

    Attributes:
        count: requests, the first rows of the batch.
        calls: their contexts, cut up.
        requests: int64, ``calls``' requests one after the other.
        order: when no context was cut: int64[count], where in ``calls`` each request is; ``None`` when some were.
    """

    count: int
    calls: tuple[Partitions, ...]
    requests: torch.Tensor
    order: torch.Tensor | None


@dataclass(frozen=True, slots=True)
class KeyTile:
    """Keys that a stretch of queries sees: all of them, causally (as many as queries), or by ``bias``."""

    slots: torch.Tensor
    causal: bool = False
    bias: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class QueryTile:
    """Queries [first, last) of the step, of one request, and the keys that they see in tiles."""

    first: int
    last: int
    keys: tuple[KeyTile, ...]


@dataclass(frozen=True, slots=True)
class CpuPlan:
    """One step's plan for one KV group. ``compute`` is the type in which products run."""

    compute: torch.dtype
    decode: DecodePlan | None
    prefill: tuple[QueryTile, ...]


class CpuPlanner:
    """Plans steps for layers of one spec.

    Args:
        spec: the layers' cache.
        compute: element type of products.
        threads: cores that share a call.
    """

    graphs = GraphSupport.NONE

    def __init__(self, spec: KVSpec, compute: torch.dtype, threads: int) -> None:
        self._compute = compute
        self._window = spec.window
        row_bytes = 2 * spec.num_kv_heads * spec.head_size * compute.itemsize
        # A power of two that depends on the layer only: a request is cut the same way whoever shares its batch.
        self._size = 1 << int(np.clip(CHUNK_BYTES // row_bytes, 64, 512)).bit_length() - 1
        self._chunk_tokens = max(threads * CHUNK_BYTES // row_bytes, self._size)
        self._tile_tokens = max(TILE_BYTES // row_bytes, 256)

    def plan(self, batch: BatchView) -> CpuPlan:
        decodes = batch.num_decodes
        lengths = batch.seq_lens_host.astype(np.int64)
        masks: dict[tuple[int, int, int], torch.Tensor] = {}
        tiles: list[QueryTile] = []
        for request in range(decodes, batch.num_requests):
            first, last = (int(at) for at in batch.query_start_host[request : request + 2])
            slots = _slots(batch, np.array([request]), np.arange(lengths[request])[None])
            tiles += self._prefill(first, last - first, torch.from_numpy(slots), masks)
        return CpuPlan(self._compute, self._decode(batch, lengths[:decodes]) if decodes else None, tuple(tiles))

    def _decode(self, batch: BatchView, lengths: Int64s) -> DecodePlan:
        starts = np.maximum(lengths - self._window, 0) if self._window else np.zeros_like(lengths)
        whole, rest = np.divmod(lengths - starts, self._size)
        # Whole partitions of all requests, then the remainders by the size that holds them.
        owners = np.repeat(np.arange(len(lengths)), whole)
        index = np.arange(len(owners)) - np.repeat(np.cumsum(whole) - whole, whole)
        calls = self._calls(batch, owners, starts[owners] + index * self._size, lengths, self._size)
        low = 0
        for size in (self._size // 8, self._size // 4, self._size // 2, self._size):
            owners = np.flatnonzero((rest > low) & (rest <= size))
            calls += self._calls(batch, owners, (starts + whole * self._size)[owners], lengths, size)
            low = size
        requests = torch.cat([call.requests for call in calls])
        cut = len(requests) > len(lengths)
        return DecodePlan(len(lengths), tuple(calls), requests, None if cut else requests.argsort())

    def _calls(self, batch: BatchView, owners: Int64s, first: Int64s, lengths: Int64s, size: int) -> list[Partitions]:
        """Return calls for stretches of ``size`` tokens that start at ``first``, as many in one as fit the cache."""
        calls = []
        together = max(self._chunk_tokens // size, 1)
        for low in range(0, len(owners), together):
            owner = owners[low : low + together]
            positions = first[low : low + together, None] + np.arange(size)
            valid = positions < lengths[owner, None]
            slots = _slots(batch, owner, np.minimum(positions, lengths[owner, None] - 1))
            bias = None
            if not valid.all():
                bias = torch.from_numpy(np.where(valid, np.float32(0), np.float32(-np.inf)))[:, None, None]
            calls.append(Partitions(torch.from_numpy(slots), torch.from_numpy(owner), bias))
        return calls

    def _prefill(
        self, first: int, queries: int, slots: torch.Tensor, masks: dict[tuple[int, int, int], torch.Tensor]
    ) -> list[QueryTile]:
        """Return the tiles of one request's ``queries`` last tokens, which start at ``first`` in the step."""
        window, length = self._window, len(slots)
        before = length - queries
        if window is None or length <= window:
            seen = [KeyTile(part) for part in torch.split(slots[:before], self._tile_tokens) if len(part)]
            return [QueryTile(first, first + queries, (*seen, KeyTile(slots[before:], causal=True)))]
        tiles = []
        rows = int(np.clip(MASK_ELEMENTS // window, 32, 256))
        for low in range(0, queries, rows):
            high = min(low + rows, queries)
            begin = max(before + low - window + 1, 0)
            keys = slots[begin : before + high]
            shape = (high - low, len(keys), before + low - begin)
            if shape not in masks:
                masks[shape] = _window_bias(*shape, window)
            tiles.append(QueryTile(first + low, first + high, (KeyTile(keys, bias=masks[shape]),)))
        return tiles


def _slots(batch: BatchView, requests: Int64s, positions: Int64s) -> Int64s:
    """Return the slots of ``positions`` [len(requests), n] of ``requests``, flat."""
    block, offset = np.divmod(positions, batch.block_size)
    found = batch.block_table_host[requests[:, None], block].astype(np.int64) * batch.block_size + offset
    return np.asarray(found.ravel())


def _window_bias(queries: int, keys: int, ahead: int, window: int) -> torch.Tensor:
    """Return float32[1, 1, queries, keys]: the first query stands at the same position as key number ``ahead``."""
    distance = torch.arange(queries)[:, None] + ahead - torch.arange(keys)
    visible = (distance >= 0) & (distance < window)
    return torch.zeros(1, 1, queries, keys).masked_fill_(~visible, -torch.inf)
