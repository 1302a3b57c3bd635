"""The engine loop: schedule, submit, wait for the oldest step, update. One way down, one way up."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from typing import Final

from hardpoint.contract.errors import EngineDeadError, QueueFullError, RequestError
from hardpoint.contract.runner import Executor, Pending
from hardpoint.contract.step import EMPTY, StepPlan
from hardpoint.engine.announcer import Announcer
from hardpoint.engine.messages import EngineOutputs, EngineRequest, Finish
from hardpoint.scheduler import Scheduler
from hardpoint.spans import Spans

log = logging.getLogger(__name__)

#: Steps that fail one after the other before the engine gives up: something is wrong that no new request puts right.
_MOST_FAILURES: Final = 8


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
        self._failed: Exception | None = None
        self._failures = 0
        self._spans = Spans("engine loop")
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

        A step that fails ends the requests under way with ``StepFailedError``. The loop goes on where the executor can.

        Raises:
            EngineDeadError: when it cannot, or what failed was not a step; the loop takes no more work.
        """
        if self._cause is not None:
            raise EngineDeadError(self._cause)
        try:
            outputs = self._advance()
            if self._announcer is not None:
                self._announcer.stepped(outputs)
        except Exception as error:
            self._cause = str(error) if isinstance(error, EngineDeadError) else _said("the engine failed", error)
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

    def idle(self) -> bool:
        """Use a moment without work for what makes later steps faster; return whether there is more of it to do.

        Raises:
            EngineDeadError: as :meth:`step`.
        """
        if self._cause is not None:
            raise EngineDeadError(self._cause)
        try:
            return self._executor.idle()
        except Exception as error:
            self._cause = _said("preparing failed", error)
            log.exception("the engine stops: %s", self._cause)
            raise EngineDeadError(self._cause) from error

    def start_profile(self) -> None:
        """Begin to record what host and device do."""
        self._executor.start_profile()
        self._spans.start()

    def stop_profile(self, path: str) -> None:
        """End it and write a Chrome trace to ``path``; ranks after the first write their own beside it."""
        recorded = self._spans.stop()
        self._executor.stop_profile(path)
        self._spans.write_into(path, recorded)

    def close(self) -> None:
        """End workers and give devices back; steps in flight are dropped."""
        self._in_flight.clear()
        try:
            if self._announcer is not None:
                self._announcer.stopping()
        finally:
            self._executor.close()

    def _advance(self) -> EngineOutputs | None:
        while self._failed is None and len(self._in_flight) < self._depth:
            with self._spans("schedule"):
                plan = self._scheduler.schedule()
            if plan is None:
                break
            self._submit(plan)
        if not self._in_flight:
            return self._scheduler.take_outputs() if self._failed is None else self._recover(self._failed)
        plan, pending = self._in_flight.popleft()
        try:
            with self._spans("wait"):
                result = pending.result()
        except Exception as error:
            return self._recover(error)
        self._failures = 0
        with self._spans("update"):
            return self._scheduler.update(plan, result)

    def _submit(self, plan: StepPlan) -> None:
        try:
            with self._spans("submit"):
                self._in_flight.append((plan, self._executor.submit(plan)))
        except Exception as error:
            # Steps before it are not touched by this: their tokens count.
            self._failed = error

    def _recover(self, error: Exception) -> EngineOutputs | None:
        """End the requests under way after a failed step, and go on if the executor can.

        Raises:
            EngineDeadError: if it cannot, or steps failed too often.
        """
        self._in_flight.clear()
        self._failed = None
        self._failures += 1
        reason = _said("a step failed", error)
        log.error("%s", reason, exc_info=error)
        broken = self._executor.recover()
        if broken is None and self._failures >= _MOST_FAILURES:
            broken = f"{self._failures} steps failed one after the other"
        if broken is not None:
            raise EngineDeadError(f"{reason}; {broken}") from error
        self._scheduler.fail_all(reason)
        return self._scheduler.take_outputs()


def _said(what: str, error: Exception) -> str:
    """Return one line; the log has all of it."""
    return f"{what} with {type(error).__name__}: {str(error).partition(chr(10))[0]}"


def _empty() -> EngineOutputs:
    return EngineOutputs(handles=EMPTY.astype("int64"), counts=EMPTY, tokens=EMPTY, finished=[])
