"""Shared prefixes of decoding requests: which requests share which blocks, and the launch that reads them once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import torch
import triton

from hardpoint.contract.attention import AttentionLayerConfig
from hardpoint_triton.cascade_kernels import TILE, attend_shared
from hardpoint_triton.launch import registers, stages

if TYPE_CHECKING:
    from hardpoint.contract.device import Device
    from hardpoint.contract.step import Int32s
    from hardpoint_triton.decode import Scratch

Positions = npt.NDArray[np.intp]

#: Shared tokens are a multiple of this: of every kernel's tile.
STEP: Final = 128
#: Rows of a program: members times query heads per key/value head.
ROWS: Final = 128
#: Stages and registers of a program: programs of the kernel that follows run beside it.
STAGES: Final = 3
REGISTERS: Final = 168
#: Members of a tile at most; a program may take a part of a tile.
MEMBERS: Final = 64
#: Members that fill a program's rows in models of today; only the decision whether to share depends on it.
USUAL_MEMBERS: Final = 32
MAX_SPLITS: Final = 16
#: Bytes that have to be saved in one layer before a further launch pays, some microseconds at an H200's bandwidth.
LEAST_BYTES: Final = 24e6
#: And in one group, before it is worth a look.
LEAST_GROUP_BYTES: Final = 12e6
#: What a floating-point operation costs in bytes that could be read meanwhile, as the kernel was measured on an H200.
BYTES_PER_FLOP: Final = 0.0105


@dataclass(frozen=True, slots=True)
class Prefixes:
    """Groups of requests that begin with the same blocks.

    Attributes:
        skipped: int32[requests], shared tokens of each request, 0 for a request of no group.
        members: int32[m], the groups' requests, group by group.
        tiles: int32[n, 4], see ``cascade_kernels.TILE``.
        ends: int64[groups, 2], of each group the column of its last shared block and that block's id.
        sizes: int64[groups], members.
    """

    skipped: Int32s
    members: Int32s
    tiles: npt.NDArray[np.int32]
    ends: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]

    def to(self, device: torch.device, units: int) -> SharedWork:
        """Return the groups on ``device``, for one step."""
        lengths = len(self.skipped), len(self.members), self.tiles.size
        together = torch.from_numpy(np.concatenate([self.skipped, self.members, self.tiles.ravel()]))
        skipped, members, tiles = together.to(device, non_blocking=True).split(lengths)
        return SharedWork(skipped, members, tiles, len(self.tiles), len(self.skipped), units)


class PrefixFinder:
    """Finds shared prefixes; looks again only when rows or the groups' last shared blocks have changed.

    A block belongs to several requests only where the whole text up to its end is the same, so equal ids in one column
    are equal prefixes, and one column says whether a group still stands.

    Args:
        block_size: tokens per block.
        num_kv_heads, head_size, token_bytes: of a layer.
    """

    def __init__(self, block_size: int, num_kv_heads: int, head_size: int, token_bytes: int) -> None:
        self._block_size = block_size
        self._token_bytes = token_bytes
        self._tile_cost = num_kv_heads * 4 * ROWS * head_size * BYTES_PER_FLOP
        self._rows = np.empty(0, np.int32)
        self._first = np.empty(0, np.int32)
        self._found: Prefixes | None = None

    def find(self, rows: Int32s, table: Int32s, seq_lens: Int32s) -> Prefixes | None:
        """Return the groups worth a launch of their own, or ``None``; the same object while nothing changes.

        Args:
            rows: int32[n], of ``table``.
            table: int32[rows, width], block ids.
            seq_lens: int32[n], context lengths after the step.
        """
        first = table[rows, 0]
        if (
            np.array_equal(rows, self._rows)
            and np.array_equal(first, self._first)
            and self._stands(rows, table, seq_lens)
        ):
            return self._found
        self._rows, self._first = rows.copy(), first
        self._found = self._search(rows, table, seq_lens)
        return self._found

    def _stands(self, rows: Int32s, table: Int32s, seq_lens: Int32s) -> bool:
        found = self._found
        if found is None:
            return True
        # A row's entries past its blocks are an earlier request's.
        if (seq_lens <= found.skipped).any():
            return False
        columns = np.repeat(found.ends[:, 0], found.sizes)
        return bool((table[rows[found.members], columns] == np.repeat(found.ends[:, 1], found.sizes)).all())

    def _search(self, rows: Int32s, table: Int32s, seq_lens: Int32s) -> Prefixes | None:
        # The newest token's block is never shared: it is being written.
        blocks = (seq_lens - 1) // self._block_size
        step = max(1, STEP // self._block_size)
        if table.shape[1] < step:
            return None
        ids = np.sort(table[rows[blocks >= step], step - 1])
        if not (ids[1:] == ids[:-1]).any():
            return None
        total, groups = self._split(np.arange(len(rows)), 0, rows, table, blocks)
        if total < LEAST_BYTES:
            return None
        skipped = np.zeros(len(rows), np.int32)
        ends, tiles = [], []
        begin = 0
        for members, depth in groups:
            tokens = depth * self._block_size
            skipped[members] = tokens
            ends.append((depth - 1, int(table[rows[members[0]], depth - 1])))
            firsts = range(0, len(members), MEMBERS)
            tiles += [(begin + at, min(MEMBERS, len(members) - at), int(members[0]), tokens) for at in firsts]
            begin += len(members)
        return Prefixes(
            skipped=skipped,
            members=np.concatenate([members for members, _ in groups]).astype(np.int32),
            tiles=np.array(tiles, np.int32),
            ends=np.array(ends, np.int64),
            sizes=np.array([len(members) for members, _ in groups], np.int64),
        )

    def _split(
        self, members: Positions, depth: int, rows: Int32s, table: Int32s, blocks: Int32s
    ) -> tuple[float, list[tuple[Positions, int]]]:
        """Return the best disjoint groups (members, blocks) among members that share ``depth`` blocks, and their savings.

        Either all of them are one group, or those that share more are groups of their own.
        """
        step = max(1, STEP // self._block_size)
        able = members[blocks[members] >= depth + step]
        if len(able) < 2:
            return 0.0, []
        ids = table[rows[able], depth + step - 1]
        order = np.argsort(ids, kind="stable")
        cuts = np.flatnonzero(np.diff(ids[order], prepend=-1, append=-1))
        total, groups = 0.0, []
        for at in np.flatnonzero(np.diff(cuts) > 1):
            inner = able[order[cuts[at] : cuts[at + 1]]]
            if self._saved(len(inner), int(blocks[inner].max())) < LEAST_GROUP_BYTES:
                continue
            common = max(_common(table, rows[inner], int(blocks[inner].min())) // step * step, depth + step)
            saved, found = self._split(inner, common, rows, table, blocks)
            own = self._saved(len(inner), common)
            if own >= saved:
                saved, found = own, [(inner, common)]
            if saved >= LEAST_GROUP_BYTES:
                total += saved
                groups += found
        return total, groups

    def _saved(self, members: int, depth: int) -> float:
        """Return what a group of so many members saves with so many shared blocks, in bytes of one layer."""
        tiles = -(-members // USUAL_MEMBERS)
        return depth * self._block_size * ((members - 1) * self._token_bytes - tiles * self._tile_cost)


def _common(table: Int32s, rows: Int32s, most: int) -> int:
    """Return how many leading blocks ``rows`` have in common, at most ``most``; by bisection, see ``PrefixFinder``."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        column = table[rows, middle - 1]
        if (column == column[0]).all():
            low = middle
        else:
            high = middle - 1
    return low


@dataclass(frozen=True, slots=True)
class SharedWork:
    """Shared prefixes on the device.

    Attributes:
        skipped, members, tiles: as in :class:`Prefixes`; tiles of no members follow the real ones.
        count: tiles of the launch.
        requests: of the step.
        units: multiprocessors.
    """

    skipped: torch.Tensor
    members: torch.Tensor
    tiles: torch.Tensor
    count: int
    requests: int
    units: int

    def attend(
        self,
        config: AttentionLayerConfig,
        block_size: int,
        q: torch.Tensor,
        kv: torch.Tensor,
        table: torch.Tensor,
        scratch: Scratch,
        scales: tuple[float, float],
        keywords: Mapping[str, Any],
    ) -> tuple[int, tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Attend to what is shared; return splits and (results, maxima, sums) as ``decode_kernels.decode`` takes them."""
        heads, size, group = config.num_heads, config.head_size, config.num_heads // config.num_kv_heads
        wide = max(16, triton.next_power_of_2(size))
        height = max(ROWS, triton.next_power_of_2(group))
        parts = -(-MEMBERS // (height // group))
        programs = self.count * parts * config.num_kv_heads
        splits = max(1, min(MAX_SPLITS, triton.next_power_of_2(self.units // programs)))
        rows = self.requests * heads * splits
        floats = scratch.floats("shared", rows * (size + 2))
        results = floats, floats[rows * size :], floats[rows * (size + 1) :]
        small = wide * kv.element_size() > 256 or q.dtype == torch.float32
        attend_shared[(self.count * parts, config.num_kv_heads, splits)](
            q, kv, *results, self.tiles, self.members, table,
            config.scale, config.soft_cap or 1.0, *scales,
            table.stride(0), q.stride(0), *kv.stride()[:4],
            HEADS=heads, G=group, D=size, D_PAD=wide, BLOCK_SIZE=block_size,
            BLOCK_M=height, BLOCK_N=32 if small else 64, PARTS=parts, SPLITS=splits,
            SOFT_CAP=config.soft_cap is not None,
            num_warps=8, num_stages=stages(2 if small else STAGES), **registers(q.device, REGISTERS), **keywords,
        )  # fmt: skip
        return splits, results


class SharedUploads:
    """Shared prefixes of prepared steps: in device buffers that keep their addresses.

    Args:
        device: of the buffers.
        max_requests: of a step.
    """

    def __init__(self, device: Device, max_requests: int) -> None:
        self._most = max_requests
        self._tiles = max_requests // 2 + 1
        self._staging = device.staging((2 * max_requests + self._tiles * TILE.value,), "int32", depth=3)
        self._held = torch.zeros(self._staging.host.shape, dtype=torch.int32, device=device.torch_device)

    def send(self, found: Prefixes) -> None:
        """Replace what the next steps read."""
        host, most = self._staging.host, self._most
        host[:] = 0
        host[: len(found.skipped)] = found.skipped
        host[most : most + len(found.members)] = found.members
        host[2 * most : 2 * most + found.tiles.size] = found.tiles.ravel()
        self._held.copy_(self._staging.upload(len(host)), non_blocking=True)

    def work(self, requests: int, tiles: int, units: int) -> SharedWork:
        """Return what was sent, for a launch of ``tiles`` tiles."""
        skipped, members = self._held[: self._most], self._held[self._most : 2 * self._most]
        return SharedWork(skipped, members, self._held[2 * self._most :], tiles, requests, units)
