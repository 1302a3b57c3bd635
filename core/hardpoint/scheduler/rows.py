"""The rows of the persistent batch: what runs, as arrays, and the newest tokens of each row.

Steady decode is arithmetic on these arrays. A row is touched in Python only when a block fills, or when it starts, is
chunked, finishes or is preempted.
"""

from __future__ import annotations

import numpy as np

from hardpoint.blocks.tables import Rows
from hardpoint.contract.step import Int32s
from hardpoint.scheduler.sequence import Sequence

#: More tokens than any sequence has.
NEVER = np.int32(2**31 - 1)


class RowTable:
    """State of ``num_rows`` rows.

    Args:
        num_rows: rows of the persistent batch.
        block_size: tokens per block.
        burst: most tokens that a row may get between two visits.

    Attributes:
        computed: int32, tokens whose keys and values are scheduled, steps in flight counted as done.
        bound: int32; the row decodes in the next step when ``computed < bound``. ``limit - 1`` while it decodes (the last
            token is never computed), 0 while it prefills, waits for a result, or is free.
        visit: int32, value of ``computed`` from which the row must be visited in Python before it decodes.
        known: int32, tokens known to the host.
        limit: int32, tokens at which the sequence ends.
        flushed: int32, tokens that went into ``Sequence.grown`` or were known at the start, in whole blocks.
        generation: int64, changes whenever the row is given back; tells results for its former sequence apart.
        handles: int64, the sequence's handle.
        turn: int64, the last step in which the row decoded; kept only where rows take turns.
        held: whether the row may not run until its step in flight is consumed.
        sequences: the row's sequence, ``None`` when free.
        stops: rows given back since the last plan.
    """

    def __init__(self, num_rows: int, block_size: int, burst: int) -> None:
        self.block_size = block_size
        # Tokens after the last full block, plus what may come in before the next visit.
        self._slots = 1 + -(-(burst + 1) // block_size)
        self._recent = np.zeros((num_rows, self._slots, block_size), np.int32)
        self._flat = self._recent.reshape(num_rows, -1)
        self.computed = np.zeros(num_rows, np.int32)
        self.bound = np.zeros(num_rows, np.int32)
        self.visit = np.full(num_rows, NEVER, np.int32)
        self.known = np.zeros(num_rows, np.int32)
        self.limit = np.full(num_rows, NEVER, np.int32)
        self.flushed = np.zeros(num_rows, np.int32)
        self.generation = np.zeros(num_rows, np.int64)
        self.handles = np.zeros(num_rows, np.int64)
        self.turn = np.zeros(num_rows, np.int64)
        self.held = np.zeros(num_rows, np.bool_)
        self.sequences: list[Sequence | None] = [None] * num_rows
        self.stops: list[int] = []
        self.running: dict[int, Sequence] = {}
        self._free = list(range(num_rows - 1, -1, -1))

    def __len__(self) -> int:
        return len(self.sequences)

    @property
    def num_free(self) -> int:
        """Rows that hold no sequence."""
        return len(self._free)

    def take(self, sequence: Sequence, computed: int) -> int:
        """Give a sequence a row, with ``computed`` of its tokens in the cache already, and return the row."""
        row = self._free.pop()
        size = self.block_size
        known = len(sequence.tokens)
        flushed = known - known % size
        self.sequences[row] = self.running[row] = sequence
        self.computed[row] = computed
        self.known[row] = known
        self.limit[row] = sequence.limit
        self.flushed[row] = flushed
        self.handles[row] = sequence.handle
        self._recent[row, flushed // size % self._slots, : known - flushed] = sequence.tokens[flushed:]
        sequence.row = row
        sequence.grown = bytearray()
        return row

    def give_back(self, row: int) -> None:
        """Free a row; the runner is told with the next plan."""
        sequence = self.running.pop(row)
        sequence.row = -1
        self.sequences[row] = None
        self.computed[row] = self.bound[row] = self.known[row] = self.flushed[row] = 0
        self.limit[row] = self.visit[row] = NEVER
        self.held[row] = False
        self.generation[row] += 1
        self._free.append(row)
        self.stops.append(row)

    def tokens_of(self, row: int) -> Int32s:
        """Return all tokens of a row that the host knows, int32[known]."""
        sequence = self.running[row]
        start = len(sequence.tokens) - len(sequence.tokens) % self.block_size
        rest = np.arange(self.flushed[row], self.known[row]) % self._flat.shape[1]
        grown = np.frombuffer(bytes(sequence.grown), np.int32)
        return np.concatenate((sequence.tokens[:start], grown, self._flat[row, rest]))

    def put(self, rows: Rows, tokens: Int32s) -> None:
        """Append one token to each of ``rows``."""
        known = self.known[rows]
        self._flat[rows, known % self._flat.shape[1]] = tokens
        self.known[rows] = known + 1

    def flush(self, rows: Rows) -> bytes:
        """Count the next full block of each of ``rows`` as flushed and return its int32 bytes, row after row."""
        data = self._recent[rows, self.flushed[rows] // self.block_size % self._slots].tobytes()
        self.flushed[rows] += self.block_size
        return data
