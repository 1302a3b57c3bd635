"""Events of requests, told from what the loop sees anyway. With nobody listening there is no announcer."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Final

from hardpoint.contract.errors import PluginError
from hardpoint.engine.messages import EngineOutputs, EngineRequest
from hardpoint.plugins import Events

log = logging.getLogger(__name__)

METRICS_EVERY: Final = 1.0


@dataclass(slots=True)
class _Sequence:
    request_id: str
    num_prompt: int
    generated: int = 0


class Announcer:
    """Follows sequences from their request to their end. Called by the loop, on its thread."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._new: list[EngineRequest] = []
        self._sequences: dict[int, _Sequence] = {}
        self._follows = events.listened("request_finished")
        self._last_metrics = 0.0

    def added(self, request: EngineRequest) -> None:
        """Note a request that joined the queue; the next step announces it."""
        self._new.append(request)
        if self._follows:
            for handle in request.handles:
                self._sequences[handle] = _Sequence(request.request_id, len(request.token_ids))

    def stepped(self, outputs: EngineOutputs | None) -> None:
        """Announce what joined and what ended, and about once a second the numbers.

        Raises:
            PluginError: when a critical plugin failed.
        """
        for request in self._new:
            self._events.emit("request_added", request_id=request.request_id, num_prompt=len(request.token_ids))
        self._new = []
        if outputs is None:
            return
        if self._follows:
            self._follow(outputs)
        now = time.monotonic()
        if outputs.stats is not None and now - self._last_metrics >= METRICS_EVERY:
            self._last_metrics = now
            self._events.emit("metrics", stats=outputs.stats)

    def failed(self, cause: str) -> None:
        """Announce the engine's end by an error; nothing that a listener does can hide that error."""
        try:
            self._events.emit("engine_failed", cause=cause)
        except PluginError:
            log.exception("while the engine's failure was announced")

    def stopping(self) -> None:
        """Announce that the engine was told to end.

        Raises:
            PluginError: when a critical plugin failed.
        """
        self._events.emit("engine_stopping")

    def _follow(self, outputs: EngineOutputs) -> None:
        for handle, count in zip(outputs.handles.tolist(), outputs.counts.tolist(), strict=True):
            if sequence := self._sequences.get(handle):
                sequence.generated += count
        for finish in outputs.finished:
            if sequence := self._sequences.pop(finish.handle, None):
                self._events.emit(
                    "request_finished",
                    request_id=sequence.request_id,
                    reason=finish.reason,
                    num_prompt=sequence.num_prompt,
                    num_generated=sequence.generated,
                )
