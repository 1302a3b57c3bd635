"""Block tables of all running rows, one per group of layers, as matrices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from hardpoint.blocks.pool import BlockPool, Ids
from hardpoint.blocks.prefix import first_needed

Rows = npt.NDArray[np.intp]


def span_blocks(tokens: int, block_size: int) -> int:
    """Return how many blocks ``tokens`` consecutive tokens touch at most, wherever they begin."""
    return (tokens + block_size - 2) // block_size + 1 if tokens > 0 else 0


class BlockTables:
    """``ids[group][row, column]`` is the block that holds tokens ``column * block_size ..`` of the row's sequence.

    All groups of a row have the same number of columns. Groups with a window keep blocks only from column ``first`` on;
    earlier entries are the null block.

    Args:
        pool: where blocks come from and go to.
        windows: per group, tokens seen, the current one included; ``None`` is all.
        block_size: tokens per block.
        num_rows: rows.
        max_tokens: longest sequence; no more columns than it needs are ever added.

    Attributes:
        columns: int32[num_rows], columns in use.
    """

    def __init__(
        self, pool: BlockPool, windows: Sequence[int | None], block_size: int, num_rows: int, max_tokens: int
    ) -> None:
        width = -(-max_tokens // block_size)
        self.pool = pool
        self.windows = tuple(windows)
        self.block_size = block_size
        self.width = width
        # Zeroed pages cost no memory until they are written, so that wide tables cost what is used of them.
        self.ids: list[npt.NDArray[np.int32]] = [np.zeros((num_rows, width), np.int32) for _ in self.windows]
        self.columns = np.zeros(num_rows, np.int32)
        self.first = np.zeros((len(self.windows), num_rows), np.int32)
        self._changes: list[tuple[Rows, int, npt.NDArray[np.int32], Ids]] = []

    @property
    def num_groups(self) -> int:
        """Groups of layers."""
        return len(self.windows)

    def columns_for(self, tokens: int) -> int:
        """Return how many columns hold ``tokens`` tokens (no more than the longest sequence has)."""
        return min(-(-tokens // self.block_size), self.width)

    def growth(self, more: int, live: int, window: int | None, chunk: int) -> int:
        """Return the most blocks that ``more`` columns add in a group that holds ``live`` blocks.

        Computing chunks of ``chunk`` tokens, a group with a window gives blocks back as it goes.
        """
        if window is None:
            return more
        return max(min(more, span_blocks(window - 1 + chunk, self.block_size) - live), 0)

    def peak_blocks(self, tokens: int, chunk: int) -> int:
        """Return the most blocks that a sequence of ``tokens`` tokens, computed in chunks of ``chunk``, holds at once."""
        return sum(self.growth(self.columns_for(tokens), 0, window, chunk) for window in self.windows)

    def blocks_to_come(self, row: int, tokens: int, chunk: int) -> int:
        """Return how many blocks more a row needs at most until ``tokens`` tokens are computed in chunks of ``chunk``."""
        columns = int(self.columns[row])
        more = max(self.columns_for(tokens) - columns, 0)
        return sum(
            self.growth(more, columns - int(self.first[group, row]), window, chunk)
            for group, window in enumerate(self.windows)
        )

    def start(self, row: int, blocks: Sequence[Ids], computed: int) -> None:
        """Give an empty row its first blocks, whose references are the row's from now on.

        Args:
            row: a row without columns.
            blocks: per group int32[columns], null blocks where the window needs none.
            computed: tokens that the blocks hold.
        """
        columns = len(blocks[0])
        for group, ids in enumerate(blocks):
            self.ids[group][row, :columns] = ids
            self.first[group, row] = min(first_needed(computed, self.windows[group], self.block_size), columns)
        self.columns[row] = columns

    def extend(self, rows: Rows, counts: npt.NDArray[np.int32]) -> None:
        """Add ``counts`` columns to each of ``rows`` and remember the entries for :meth:`take_changes`.

        Raises:
            RuntimeError: when the pool has not that many free blocks.
        """
        owners, columns = rows, self.columns[rows]
        if np.count_nonzero(counts == 1) < len(rows):
            owners, columns = np.repeat(rows, counts), np.repeat(columns, counts)
            firsts = np.cumsum(counts) - counts
            columns += np.arange(len(owners), dtype=np.int32) - np.repeat(firsts, counts).astype(np.int32)
        taken = self.pool.take(len(owners) * self.num_groups).reshape(self.num_groups, -1)
        for group, table in enumerate(self.ids):
            table[owners, columns] = taken[group]
            self._changes.append((owners, group, columns, taken[group]))
        self.columns[rows] += counts

    def extend_row(self, row: int, count: int, *, silent: bool = False) -> None:
        """Add ``count`` columns to one row; ``silent`` when the row's whole table is told otherwise."""
        begin = int(self.columns[row])
        taken = self.pool.take(count * self.num_groups).reshape(self.num_groups, -1)
        for group, table in enumerate(self.ids):
            table[row, begin : begin + count] = taken[group]
        self.columns[row] = begin + count
        if not silent and count:
            owners = np.full(count, row, np.intp)
            columns = np.arange(begin, begin + count, dtype=np.int32)
            self._changes.extend((owners, group, columns, taken[group]) for group in range(self.num_groups))

    def trim(self, rows: Rows, computed: npt.NDArray[np.int32]) -> None:
        """Release the blocks of ``rows`` that no token from ``computed`` on attends to."""
        for group, window in enumerate(self.windows):
            if window is None:
                continue
            first, table = self.first[group], self.ids[group]
            target = np.minimum(np.maximum(computed - window + 1, 0) // self.block_size, self.columns[rows])
            late = rows[first[rows] < target]
            while len(late):
                columns = first[late]
                self.pool.release(table[late, columns])
                table[late, columns] = 0
                first[late] += 1
                late = rows[first[rows] < target]

    def trim_row(self, row: int, computed: int) -> None:
        """Release the blocks of one row that no token from ``computed`` on attends to."""
        for group, window in enumerate(self.windows):
            first = int(self.first[group, row])
            target = min(first_needed(computed, window, self.block_size), int(self.columns[row]))
            if target > first:
                gone = self.ids[group][row, first:target]
                self.pool.release(gone)
                gone[:] = 0
                self.first[group, row] = target

    def clear(self, row: int) -> None:
        """Release all blocks of a row and forget what was to be told about it."""
        columns = int(self.columns[row])
        for group, table in enumerate(self.ids):
            self.pool.release(table[row, self.first[group, row] : columns])
            table[row, :columns] = 0
        self.columns[row] = 0
        self.first[:, row] = 0
        changes, self._changes = self._changes, []
        for owners, group, added, ids in changes:
            keep = owners != row
            self._changes.append((owners[keep], group, added[keep], ids[keep]))

    def blocks(self, row: int) -> tuple[Ids, ...]:
        """Return copies of a row's table, per group int32[columns]."""
        columns = int(self.columns[row])
        return tuple(table[row, :columns].copy() for table in self.ids)

    def live_blocks(self, row: int, group: int) -> Ids:
        """Return the blocks that a row holds in one group."""
        return self.ids[group][row, self.first[group, row] : self.columns[row]]

    def take_changes(self) -> tuple[npt.NDArray[np.int32], ...] | None:
        """Return (rows, groups, columns, ids), int32[m] each, of entries added since the last call; ``None`` for none."""
        changes, self._changes = self._changes, []
        if not changes:
            return None
        if len(changes) == 1:
            owners, group, columns, ids = changes[0]
            return owners.astype(np.int32), np.full(len(ids), group, np.int32), columns, ids
        rows = np.concatenate([c[0] for c in changes]).astype(np.int32)
        groups = np.repeat(np.array([c[1] for c in changes], np.int32), [len(c[0]) for c in changes])
        return rows, groups, np.concatenate([c[2] for c in changes]), np.concatenate([c[3] for c in changes])
