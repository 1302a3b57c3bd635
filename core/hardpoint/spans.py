"""Host time by segment, for a trace. While nobody records, a segment costs an attribute and an empty block."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Final

Span = tuple[str, int, int]

_NOTHING: Final[AbstractContextManager[None]] = nullcontext()


class Spans:
    """Named stretches of one thread's time.

    Args:
        track: the line of the trace on which they are shown.
    """

    def __init__(self, track: str) -> None:
        self._track = track
        self._recorded: list[Span] | None = None

    def __call__(self, name: str) -> AbstractContextManager[None]:
        """Return a block whose time is recorded under ``name``."""
        return _NOTHING if self._recorded is None else self._record(name, self._recorded)

    def start(self) -> None:
        """Begin to record, from nothing."""
        self._recorded = []

    def stop(self) -> list[Span]:
        """End it and return what was recorded: (name, begin, end) in nanoseconds of the Unix clock."""
        recorded, self._recorded = self._recorded or [], None
        return recorded

    def write_into(self, path: str, recorded: list[Span]) -> None:
        """Add what was recorded to the Chrome trace at ``path``, on that trace's clock."""
        file = Path(path)
        trace: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        base = int(trace.get("baseTimeNanoseconds", 0))
        trace["traceEvents"] += [
            {
                "ph": "X",
                "cat": "host",
                "name": name,
                "pid": "hardpoint",
                "tid": self._track,
                "ts": (begin - base) / 1e3,
                "dur": (end - begin) / 1e3,
            }
            for name, begin, end in recorded
        ]
        file.write_text(json.dumps(trace), encoding="utf-8")

    @contextmanager
    def _record(self, name: str, into: list[Span]) -> Iterator[None]:
        begin = time.time_ns()
        try:
            yield
        finally:
            into.append((name, begin, time.time_ns()))
