"""The waiting queue: a heap over policy keys from which sequences may leave at any place."""

from __future__ import annotations

from heapq import heapify, heappop, heappush

from hardpoint.contract.policy import SortKey
from hardpoint.scheduler.sequence import Sequence

_Entry = tuple[SortKey, int, int, Sequence]
_SLACK = 64


class WaitingQueue:
    """Sequences in the policy's order. ``push`` is O(log n), ``remove`` O(1) amortised, ``peek`` O(log n) amortised."""

    def __init__(self) -> None:
        self._heap: list[_Entry] = []
        self._stays: dict[Sequence, int] = {}
        self._stay = 0

    def __len__(self) -> int:
        return len(self._stays)

    def __contains__(self, sequence: Sequence) -> bool:
        return sequence in self._stays

    def push(self, sequence: Sequence) -> None:
        """Add a sequence. It may have been here before: every stay has a number, and entries of past ones are dead."""
        self._stay += 1
        self._stays[sequence] = self._stay
        heappush(self._heap, (sequence.key, sequence.order, self._stay, sequence))

    def peek(self) -> Sequence | None:
        """Return the first sequence, ``None`` when the queue is empty."""
        heap = self._heap
        while heap and not self._alive(heap[0]):
            heappop(heap)
        return heap[0][3] if heap else None

    def remove(self, sequence: Sequence) -> None:
        """Take a sequence out, wherever it stands.

        Raises:
            KeyError: when it is not in the queue.
        """
        del self._stays[sequence]
        if len(self._heap) > 2 * len(self._stays) + _SLACK:
            # Dead entries are dropped in bulk, so that the heap stays proportional to what waits.
            self._heap = [entry for entry in self._heap if self._alive(entry)]
            heapify(self._heap)

    def _alive(self, entry: _Entry) -> bool:
        return self._stays.get(entry[3]) == entry[2]
