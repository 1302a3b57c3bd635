"""The client of an engine in this process: ``poll`` runs the step."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from hardpoint.contract.errors import EngineDeadError, ProfileError
from hardpoint.engine.loop import EngineLoop
from hardpoint.engine.messages import Abort, EngineInfo, EngineOutputs, EngineRequest


class InProcessClient:
    """Hands requests to a loop through an inbox, so that any thread may add while one thread polls."""

    def __init__(self, loop: EngineLoop, info: EngineInfo) -> None:
        self.info = info
        self._loop = loop
        self._inbox: deque[EngineRequest | Abort] = deque()
        self._arrival = threading.Event()
        self._running = threading.Lock()
        self._dead: str | None = None
        self._rested = False

    def add(self, request: EngineRequest) -> None:
        self._check()
        self._inbox.append(request)
        self._arrival.set()

    def abort(self, handles: Sequence[int]) -> None:
        self._inbox.append(Abort(list(handles)))
        self._arrival.set()

    def poll(self, timeout: float | None = None) -> EngineOutputs | None:
        self._check()
        if not self._inbox and not self._loop.has_work:
            self._rest()
            self._arrival.wait(timeout)
        self._arrival.clear()
        with self._running:
            self._check()
            self._drain()
            self._rested = self._rested and not self._loop.has_work
            try:
                return self._loop.step()
            except EngineDeadError as error:
                self._dead = str(error)
                raise

    def reset_prefix_cache(self) -> bool:
        with self._running:
            return self._loop.reset_prefix_cache()

    def start_profile(self) -> None:
        with self._running, _as_profile_error():
            self._loop.start_profile()

    def stop_profile(self, path: str) -> None:
        with self._running, _as_profile_error():
            self._loop.stop_profile(path)

    def close(self) -> None:
        self._dead = self._dead or "it was closed"
        self._arrival.set()
        with self._running:
            self._loop.close()

    def _rest(self) -> None:
        """Let the loop use the time until a request comes."""
        while not (self._rested or self._inbox):
            with self._running:
                self._check()
                try:
                    self._rested = not self._loop.idle()
                except EngineDeadError as error:
                    self._dead = str(error)
                    raise

    def _drain(self) -> None:
        while self._inbox:
            message = self._inbox.popleft()
            if isinstance(message, Abort):
                self._loop.abort(message.handles)
            else:
                self._loop.add(message)

    def _check(self) -> None:
        if self._dead is not None:
            raise EngineDeadError(f"the engine takes no requests: {self._dead}")


@contextmanager
def _as_profile_error() -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        raise ProfileError(f"{type(error).__name__}: {error}") from error
