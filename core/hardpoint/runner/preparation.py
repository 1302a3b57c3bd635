"""What is prepared when: sizes in use first, the rest in idle moments, and never so much at once that requests stall."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

#: Steps between two preparations while requests run. A preparation costs about as much as this many short steps.
_PAUSE: Final = 16


@dataclass(frozen=True, slots=True)
class Choice:
    """How to run a step: at ``size`` rows, after preparing it if ``prepare``."""

    size: int
    prepare: bool = False


class Preparation:
    """Chooses among sizes that are prepared, and which one is prepared next.

    A decision depends on the decisions before it only, not on time: ranks that see the same steps decide the same, as they
    must where preparing means communicating.

    Args:
        sizes: rows of steps that may be prepared.
    """

    def __init__(self, sizes: Iterable[int]) -> None:
        self._sizes = sorted(set(sizes))
        #: Kind -> prepared sizes in order. A kind is all that distinguishes prepared steps of one size.
        self._ready: dict[Hashable, list[int]] = {}
        self._refused: set[tuple[int, Hashable]] = set()
        self._left: set[tuple[int, Hashable]] = set()
        self._missed: Counter[tuple[int, Hashable]] = Counter()
        self._idle_order = _spread(self._sizes)
        self._since = _PAUSE
        self._padded = self._eager = 0

    def holds(self, rows: int) -> bool:
        """Return whether some size holds ``rows``."""
        return bool(self._sizes) and rows <= self._sizes[-1]

    def choose(self, rows: int, kind: Hashable) -> Choice | None:
        """Return how to run a step of ``rows`` rows; ``None`` if it is to run unprepared.

        The smallest size that holds the rows, where it is prepared or may be now; else the next larger one that is. Where
        there is none, preparing does not wait: it costs about what running two such steps unprepared would.
        """
        if not self.holds(rows):
            return None
        self._since += 1
        size = self._sizes[bisect_left(self._sizes, rows)]
        ready = self._ready.get(kind, [])
        at = bisect_left(ready, size)
        if at < len(ready) and ready[at] == size:
            return Choice(size)
        if (size, kind) not in self._refused:
            if self._since >= _PAUSE or at == len(ready):
                self._since = 0
                return Choice(size, prepare=True)
            self._missed[size, kind] += 1
        if at < len(ready):
            self._padded += 1
            return Choice(ready[at])
        self._eager += 1
        return None

    def expect(self, kind: Hashable) -> None:
        """Note that steps of a kind will come, so that idle moments prepare them."""
        self._ready.setdefault(kind, [])

    def done(self, size: int, kind: Hashable) -> None:
        """Note that a size is prepared."""
        self._missed.pop((size, kind), None)
        ready = self._ready.setdefault(kind, [])
        ready.insert(bisect_left(ready, size), size)

    def refuse(self, size: int, kind: Hashable) -> None:
        """Note that a size cannot be prepared, so that it is not tried again."""
        self._missed.pop((size, kind), None)
        self._refused.add((size, kind))

    def leave(self, size: int, kind: Hashable) -> None:
        """Note that only a step that calls for it can prepare this one, not an idle moment."""
        self._missed.pop((size, kind), None)
        self._left.add((size, kind))

    def next(self) -> tuple[int, Hashable] | None:
        """Return what to prepare in an idle moment, ``None`` when nothing is left.

        What steps have missed most often comes first, then all sizes of the kinds in use, far apart ones first.
        """
        for wanted, _count in self._missed.most_common():
            if wanted not in self._left:
                return wanted
        for size in self._idle_order:
            for kind, ready in self._ready.items():
                if size not in ready and (size, kind) not in self._refused | self._left:
                    return size, kind
        return None

    def ready(self) -> Mapping[Hashable, Sequence[int]]:
        """Return the prepared sizes of every kind, in order."""
        return self._ready

    def describe(self) -> dict[str, Any]:
        """Return what can be prepared, what was refused, and how many steps ran at a larger size or unprepared."""
        return {
            "possible": list(self._sizes),
            "refused": sorted(size for size, _kind in self._refused),
            "padded_steps": self._padded,
            "unprepared_steps": self._eager,
        }


def _spread(sizes: list[int]) -> list[int]:
    """Return ``sizes`` in an order in which every beginning covers the whole range: powers of two, then the rest."""
    powers = [size for size in sizes if size & (size - 1) == 0]
    return [*powers, *(size for size in reversed(sizes) if size not in powers)]
