"""A few processes that render templates; one that takes too long is killed and replaced."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

import zmq

from hardpoint.contract.errors import RequestError
from hardpoint.executor.child import ChildProcess
from hardpoint.text.render_messages import Rendered, RendererReady, RenderFailed, RenderJob, RenderLimits
from hardpoint.wire import Decoder, encode

_START_SECONDS = 60.0
_SLICE_MS = 200


class _Renderer:
    """One rendering process. Used by one thread at a time."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], limits: RenderLimits) -> None:
        self._child = ChildProcess("hardpoint.text.render_worker", name="template renderer", body=encode(limits))
        self._jobs = context.socket(zmq.PUSH)
        self._jobs.bind(self._child.to_child)
        self._answers = context.socket(zmq.PULL)
        self._answers.bind(self._child.from_child)
        self._decoder: Decoder[RendererReady | Rendered | RenderFailed] = Decoder(
            RendererReady | Rendered | RenderFailed
        )
        self._seconds = limits.seconds
        ready = self._receive(_START_SECONDS)
        if not isinstance(ready, RendererReady):
            self.close()
            raise RuntimeError(f"the template renderer did not start: {ready}")

    def run(self, job: bytes) -> Rendered | RenderFailed | str:
        """Return the answer, or how the process ended instead; then it is of no further use."""
        self._jobs.send(job)
        answer = self._receive(self._seconds)
        assert not isinstance(answer, RendererReady)
        return answer

    def _receive(self, seconds: float) -> RendererReady | Rendered | RenderFailed | str:
        deadline = time.monotonic() + seconds
        while True:
            death = self._child.death()
            if self._answers.poll(0 if death else _SLICE_MS):
                return self._decoder.decode(self._answers.recv())
            if death:
                return death
            if time.monotonic() > deadline:
                return f"it ran longer than {seconds:g} seconds"

    def kill(self) -> None:
        """End the process, from any thread; whoever waits for its answer learns of it."""
        self._child.close(timeout=0.0)

    def close(self) -> None:
        self.kill()
        self._jobs.close(linger=0)
        self._answers.close(linger=0)


class RenderPool:
    """Up to ``limits.workers`` rendering processes, started when needed and kept."""

    def __init__(self, limits: RenderLimits) -> None:
        """Start nothing yet."""
        self._limits = limits
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._idle: list[_Renderer] = []
        self._busy: set[_Renderer] = set()
        self._places = threading.Semaphore(limits.workers)
        self._lock = threading.Lock()
        self._closed = False

    def run(self, job: RenderJob) -> Rendered | RenderFailed:
        """Render; waits for a free process.

        Raises:
            RequestError: when the job cannot be sent, or no process becomes free in time.
        """
        try:
            message = encode(job)
        except (UnicodeEncodeError, OverflowError, RecursionError, TypeError) as error:
            raise RequestError(f"the conversation cannot be rendered: {error}", field="messages") from error
        with self._place(), self._renderer() as renderer:
            answer = renderer.run(message)
            if isinstance(answer, str):
                renderer.close()
                return RenderFailed("limit", answer)
            self._give_back(renderer)
            return answer

    @contextlib.contextmanager
    def _place(self) -> Iterator[None]:
        # Everyone before may use up its time, twice over on a busy machine.
        if not self._places.acquire(timeout=_START_SECONDS + 4 * self._limits.seconds):
            raise RequestError("too many chat templates are being rendered; try again later")
        try:
            yield
        finally:
            self._places.release()

    @contextlib.contextmanager
    def _renderer(self) -> Iterator[_Renderer]:
        with self._lock:
            if self._closed:
                raise RequestError("the engine was closed; nothing is rendered any more")
            self._context = self._context or zmq.Context()
            context = self._context
            renderer = self._idle.pop() if self._idle else None
        renderer = renderer or _Renderer(context, self._limits)
        with self._lock:
            self._busy.add(renderer)
        try:
            yield renderer
        except BaseException:
            renderer.close()
            raise
        finally:
            with self._lock:
                self._busy.discard(renderer)

    def _give_back(self, renderer: _Renderer) -> None:
        with self._lock:
            if not self._closed:
                self._idle.append(renderer)
                return
        renderer.close()

    def close(self) -> None:
        """End the processes, also those at work."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
            busy = list(self._busy)
        for renderer in idle:
            renderer.close()
        for renderer in busy:
            renderer.kill()
