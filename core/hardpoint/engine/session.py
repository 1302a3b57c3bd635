"""One life of an engine behind ``AsyncEngine``: the thread that polls it, and who waits for what."""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from hardpoint.contract.errors import EngineDeadError
from hardpoint.engine.client import EngineClient
from hardpoint.engine.inputs import InputProcessor
from hardpoint.engine.messages import EngineOutputs, SchedulerStats
from hardpoint.engine.outputs import OutputProcessor
from hardpoint.engine.streams import Stream, wake_all
from hardpoint.outputs import RequestOutput
from hardpoint.text.model_text import ModelText

log = logging.getLogger(__name__)
P = ParamSpec("P")
T = TypeVar("T")

POLL_SECONDS = 0.5
_TEXT_THREADS = 4


class Session:
    """One life of an engine: from its start to its end or death.

    Attributes:
        inputs, outputs: the two ways through the text side.
        streams: readers by request id.
        lock: held by whoever changes which requests live: the polling thread, and coroutines that add or abort.
        stats: as of the last step.
        dead: why it ended, once it did.
        thread: polls the engine.
        tokenizing, rendering, rendering_foreign: threads for text work; apart, so that slow templates hold up neither
            tokenization nor, when they came with a request, the model's own template.
    """

    def __init__(self, client: EngineClient, text: ModelText) -> None:
        """Wrap a started engine; ``thread`` is for the caller to start."""
        self.client = client
        self.inputs = InputProcessor(text, client.info)
        self.outputs = OutputProcessor(text.tokenizer)
        self.streams: dict[str, Stream] = {}
        self.lock = threading.Lock()
        self.stats = SchedulerStats()
        self.dead: EngineDeadError | None = None
        renderers = 1 if text.chat is None else text.chat.workers
        self.tokenizing = ThreadPoolExecutor(_TEXT_THREADS, "hardpoint-text")
        self.rendering = ThreadPoolExecutor(renderers, "hardpoint-chat")
        self.rendering_foreign = ThreadPoolExecutor(renderers, "hardpoint-foreign-chat")
        self.thread = threading.Thread(target=self._poll, name="hardpoint-outputs", daemon=True)

    def _poll(self) -> None:
        try:
            while self.dead is None:
                outputs = self.client.poll(POLL_SECONDS)
                if outputs is not None:
                    self._hand_over(outputs)
        except EngineDeadError as error:
            self.die(error)
        except Exception as error:
            log.exception("the outputs of a step could not be read")
            died = EngineDeadError(f"reading the engine's outputs failed with {type(error).__name__}: {error}")
            died.__cause__ = error
            self.die(died)

    def _hand_over(self, outputs: EngineOutputs) -> None:
        with self.lock:
            if outputs.stats is not None:
                self.stats = outputs.stats
            processed = self.outputs.process(outputs)
            awake = [self._put(output.request_id, output) for output in processed.outputs]
            awake += [self._put(name, error) for name, error in processed.errors]
        if processed.abort:
            self.client.abort(processed.abort)
        wake_all(stream for stream in awake if stream is not None)

    def _put(self, name: str, news: RequestOutput | Exception) -> Stream | None:
        stream = self.streams.get(name)
        if stream is not None:
            stream.put(news)
        return stream

    def die(self, error: EngineDeadError) -> None:
        """Give every waiting caller the cause; called once or more, by whoever notices."""
        with self.lock:
            if self.dead is not None:
                return
            self.dead = error
            self.outputs.clear()
            waiting, self.streams = list(self.streams.values()), {}
        for stream in waiting:
            stream.put(again(error))
        wake_all(waiting)

    def close(self) -> None:
        """End the engine and the thread."""
        self.die(EngineDeadError("the engine was shut down"))
        self.client.close()
        for pool in (self.tokenizing, self.rendering, self.rendering_foreign):
            pool.shutdown(wait=False, cancel_futures=True)
        if self.thread is not threading.current_thread():
            self.thread.join(timeout=4 * POLL_SECONDS)


async def off_loop(pool: ThreadPoolExecutor, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a call in a thread of ``pool`` and wait for it without blocking the event loop.

    Raises:
        EngineDeadError: when the pool was shut down before the call began.
    """
    try:
        future = asyncio.get_running_loop().run_in_executor(pool, functools.partial(call, *args, **kwargs))
    except RuntimeError as error:
        raise EngineDeadError("the engine was shut down") from error
    try:
        return await future
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise EngineDeadError("the engine was shut down") from error


def again(error: EngineDeadError) -> EngineDeadError:
    """Return a fresh error for one caller: a shared instance would collect everybody's tracebacks."""
    fresh = EngineDeadError(str(error))
    fresh.__cause__ = error
    return fresh
