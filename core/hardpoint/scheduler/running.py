"""What runs: rows, their block tables, and the prefix cache that they fill."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hardpoint.blocks import BlockHasher, BlockPool, BlockTables, PrefixChain, PrefixHit, find_prefix
from hardpoint.blocks.tables import Rows
from hardpoint.contract.kv import KVPlan
from hardpoint.contract.limits import BatchLimits
from hardpoint.contract.step import Bools, Int32s
from hardpoint.scheduler.rows import RowTable
from hardpoint.scheduler.sequence import Sequence
from hardpoint.scheduler.stops import StopTable


@dataclass(frozen=True, slots=True)
class Source:
    """Where a sequence's first tokens come from: per group the blocks, and how many tokens they hold."""

    blocks: tuple[Int32s, ...]
    computed: int


class RunningSet:
    """Rows with sequences, the blocks that they hold, and what must be done when a block fills.

    Args:
        kv: the cache's division.
        limits: the platform's.
        max_model_len: longest sequence in tokens.
        vocab_size: ids are below this.
        caching: whether blocks are offered to the prefix cache.
        secret: of the block hashes; drawn when ``None``.
    """

    def __init__(
        self,
        kv: KVPlan,
        limits: BatchLimits,
        max_model_len: int,
        vocab_size: int,
        *,
        caching: bool,
        secret: bytes | None = None,
    ) -> None:
        windows = tuple(group.window for group in kv.groups)
        self.block_size = kv.block_size
        self.lookahead = limits.lookahead
        self.pool = BlockPool(kv.num_blocks, len(windows))
        self.tables = BlockTables(self.pool, windows, kv.block_size, limits.max_requests, max_model_len)
        self.rows = RowTable(limits.max_requests, kv.block_size, limits.sampled_per_step)
        self.stops = StopTable(vocab_size)
        self.hasher = BlockHasher(kv.block_size, secret)
        self.caching = caching
        self.full_groups = windows.count(None)
        #: Rows whose known tokens are not all computed.
        self.prefilling: dict[int, Sequence] = {}
        #: Counts what may make room for a waiting sequence, so that one that was refused is not tried in every step.
        self.changes = 0
        self._windowed = self.full_groups < len(windows)

    def __len__(self) -> int:
        return len(self.rows.running)

    def ready(self) -> Bools:
        """Return bool[rows]: rows that may decode now."""
        return self.rows.computed < self.rows.bound

    def lookup(self, sequence: Sequence) -> PrefixHit:
        """Find the longest cached prefix that leaves at least the last known token to compute."""
        most = (len(sequence.tokens) - 1) // self.block_size
        return find_prefix(self.pool, self.tables.windows, self.block_size, self._chain(sequence), most)

    def _chain(self, sequence: Sequence) -> PrefixChain:
        if sequence.chain is None:
            root = self.hasher.root(sequence.request.adapter, sequence.request.cache_salt)
            sequence.chain = PrefixChain(self.hasher, root, sequence.tokens.tobytes())
        return sequence.chain

    def start(self, sequence: Sequence, source: Source) -> int:
        """Give a sequence a row and the blocks of ``source``, on which it takes a reference."""
        if self.caching:
            self._chain(sequence)
        row = self.rows.take(sequence, source.computed)
        self.tables.start(row, source.blocks, source.computed)
        for group in range(self.tables.num_groups):
            self.pool.hold(self.tables.live_blocks(row, group))
        self.stops.add(sequence.stops)
        self.prefilling[row] = sequence
        sequence.registered = source.computed // self.block_size
        return row

    def release(self, sequence: Sequence) -> None:
        """Take a sequence's row and blocks back. This is the only place where a row ends."""
        row = sequence.row
        self.prefilling.pop(row, None)
        self.stops.remove(sequence.stops)
        self.tables.clear(row)
        self.rows.give_back(row)
        self.changes += 1

    def compute(self, row: int, size: int) -> bool:
        """Count ``size`` more known tokens of a prefilling row as scheduled; ``True`` when all known ones are now."""
        rows = self.rows
        sequence = self.prefilling[row]
        computed = int(rows.computed[row]) + size
        rows.computed[row] = computed
        if self.caching:
            self._register(sequence, row, computed // self.block_size)
        if computed < len(sequence.tokens):
            return False
        del self.prefilling[row]
        self.changes += 1
        rows.bound[row] = sequence.limit - 1
        self.set_visits(np.array([row]))
        return True

    def _register(self, sequence: Sequence, row: int, columns: int) -> None:
        first = sequence.registered
        if first < columns:
            digests = self._chain(sequence).upto(columns)[first:columns]
            for group, ids in enumerate(self.tables.ids):
                self.pool.register(group, digests, ids[row, first:columns].tolist())
            sequence.registered = columns

    def flush(self, rows: Rows) -> None:
        """Move blocks of ``rows`` whose tokens are known and scheduled out of the recent tokens, and index them."""
        table, size, width = self.rows, self.block_size, self.hasher.block_bytes
        behind = np.minimum(table.known[rows], table.computed[rows]) - table.flushed[rows]
        full = behind >= size
        while np.count_nonzero(full):
            rows, behind = rows[full], behind[full] - size
            columns = table.flushed[rows] // size
            data = table.flush(rows)
            digests: list[bytes] = []
            for at, row in enumerate(rows.tolist()):
                sequence = table.running[row]
                chunk = data[at * width : at * width + width]
                sequence.grown += chunk
                if sequence.chain is not None:
                    digests.append(sequence.chain.append(chunk))
            if self.caching:
                for group, ids in enumerate(self.tables.ids):
                    self.pool.register(group, digests, ids[rows, columns].tolist())
            full = behind >= size

    def trim(self, rows: Rows) -> None:
        """Release blocks of ``rows`` that left every window."""
        if self._windowed:
            self.tables.trim(rows, self.rows.computed[rows])

    def columns_short(self, rows: Rows, tokens: int = 1) -> Int32s:
        """Return how many columns each of ``rows`` lacks to compute ``tokens`` more tokens, lookahead included."""
        reach = self.rows.computed[rows] + np.int32(tokens + self.lookahead)
        columns = np.minimum(-(-reach // self.block_size), self.tables.width)
        short: Int32s = np.maximum(columns - self.tables.columns[rows], 0)
        return short

    def set_visits(self, rows: Rows) -> None:
        """Decide at how many computed tokens decoding ``rows`` must be visited again: a block is full or missing."""
        short = self.tables.columns[rows] * self.block_size - self.lookahead
        self.rows.visit[rows] = np.minimum(short, self.rows.flushed[rows] + self.block_size)
