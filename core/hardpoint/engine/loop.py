"""The engine loop: schedule, submit, wait for the oldest step, update. One way down, one way up."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence

from hardpoint.contract.errors import EngineDeadError, QueueFullError, RequestError
from hardpoint.contract.runner import Executor, Pending
from hardpoint.contract.step import EMPTY, StepPlan
from hardpoint.engine.announcer import Announcer
from hardpoint.engine.messages import EngineOutputs, EngineRequest, Finish
from hardpoint.scheduler import Scheduler

log = logging.getLogger(__name__)


class EngineLoop:
    """Drives a scheduler and an executor. Called from one thread.

    Args:
        scheduler: decides what runs.
        executor: loaded and started.
        depth: steps in flight; with 2 the next step is planned and submitted before the last one's tokens are known.
        announcer: tells plugins what happens, ``None`` when none listens.
    """

    def __init__(
        self, scheduler: Scheduler, executor: Executor, *, depth: int = 1, announcer: Announcer | None = None
    ) -> None:
        self._scheduler = scheduler
        self._executor = executor
        self._depth = depth
        self._announcer = announcer
        self._in_flight: deque[tuple[StepPlan, Pending]] = deque()
        self._refused: list[Finish] = []
        self._cause: str | None = None

    @property
    def has_work(self) -> bool:
        """Whether calling :meth:`step` can give outputs now or later without a new request."""
        return bool(self._in_flight or self._refused or self._scheduler.has_work)

    def add(self, request: EngineRequest) -> None:
        """Queue a request; one that the scheduler refuses ends with an error of its own in the next outputs."""
        try:
            self._scheduler.add(request)
        except (RequestError, QueueFullError) as error:
            kind = type(error).__name__
            self._refused += [Finish(h, "error", error=str(error), error_type=kind) for h in request.handles]
        else:
            if self._announcer is not None:
                self._announcer.added(request)

    def abort(self, handles: Sequence[int]) -> None:
        """End sequences; their blocks are free when this returns (or when the step in flight has passed them)."""
        self._scheduler.abort(handles)

    def step(self) -> EngineOutputs | None:
        """Keep ``depth`` steps in flight, wait for the oldest, and return what it gave; ``None`` if nothing happened.

        Raises:
            EngineDeadError: when a step failed; the loop takes no more work.
        """
        if self._cause is not None:
            raise EngineDeadError(self._cause)
        try:
            outputs = self._advance()
            if self._announcer is not None:
                self._announcer.stepped(outputs)
        except Exception as error:
            self._cause = f"a step failed with {type(error).__name__}: {error}"
            log.exception("the engine stops: %s", self._cause)
            if self._announcer is not None:
                self._announcer.failed(self._cause)
            raise EngineDeadError(self._cause) from error
        if self._refused:
            outputs = outputs or _empty()
            outputs.finished.extend(self._refused)
            self._refused = []
        if outputs is not None:
            outputs.stats = self._scheduler.stats()
        return outputs

    def reset_prefix_cache(self) -> bool:
        """Forget cached prefixes that no running request holds."""
        return self._scheduler.reset_prefix_cache()

    def close(self) -> None:
        """End workers and give devices back; steps in flight are dropped."""
        self._in_flight.clear()
        try:
            if self._announcer is not None:
                self._announcer.stopping()
        finally:
            self._executor.close()

    def _advance(self) -> EngineOutputs | None:
        while len(self._in_flight) < self._depth:
            plan = self._scheduler.schedule()
            if plan is None:
                break
            self._in_flight.append((plan, self._executor.submit(plan)))
        if not self._in_flight:
            return self._scheduler.take_outputs()
        plan, pending = self._in_flight.popleft()
        return self._scheduler.update(plan, pending.result())


def _empty() -> EngineOutputs:
    return EngineOutputs(handles=EMPTY.astype("int64"), counts=EMPTY, tokens=EMPTY, finished=[])
