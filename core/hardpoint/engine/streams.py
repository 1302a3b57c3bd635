"""From the thread that polls an engine to the coroutines that wait for its outputs."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterable

from hardpoint.outputs import RequestOutput


class Stream:
    """Outputs of one request, read by one coroutine.

    A reader that falls behind finds its outputs merged, so that a slow client costs no memory.
    """

    def __init__(self, request_id: str, *, delta: bool) -> None:
        """Belong to the running event loop; ``delta`` outputs are joined, others replace what was not read."""
        self.request_id = request_id
        self.loop = asyncio.get_running_loop()
        self._delta = delta
        self._lock = threading.Lock()
        self._pending: RequestOutput | None = None
        self._error: BaseException | None = None
        self._ready = asyncio.Event()

    def put(self, news: RequestOutput | BaseException) -> None:
        """Leave an output or the error that ends the request; from any thread, before :func:`wake`."""
        with self._lock:
            if isinstance(news, BaseException):
                self._error = news
            elif self._pending is None:
                self._pending = news
            else:
                self._pending.add(news, aggregate=self._delta)

    def wake(self) -> None:
        """Let the reader look; in its event loop."""
        self._ready.set()

    async def next(self) -> RequestOutput:
        """Wait for the next output.

        Raises:
            RequestError, EngineDeadError, ...: what ended the request.
        """
        while True:
            with self._lock:
                pending, self._pending = self._pending, None
                if pending is None and self._error is not None:
                    raise self._error
                self._ready.clear()
            if pending is not None:
                return pending
            await self._ready.wait()


def wake_all(streams: Iterable[Stream]) -> None:
    """Wake the readers of ``streams`` with one call into each of their event loops."""
    by_loop: dict[asyncio.AbstractEventLoop, list[Stream]] = {}
    for stream in streams:
        by_loop.setdefault(stream.loop, []).append(stream)
    for loop, waiting in by_loop.items():
        # A loop that was closed has no readers left.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(_wake, waiting)


def _wake(streams: list[Stream]) -> None:
    for stream in streams:
        stream.wake()
