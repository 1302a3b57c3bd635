"""The scheduler: which request gets how many tokens in each step.

A request is waiting, running, perhaps preempted and waiting again, and ends. There is no prefill phase and no decode phase:
a step gives tokens to sequences under one budget, those that run first. Rows in steady decode are numpy arithmetic; host
work grows with what changes.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from hardpoint.config import EngineConfig
from hardpoint.contract.errors import QueueFullError, RequestError
from hardpoint.contract.kv import KVPlan
from hardpoint.contract.limits import BatchLimits
from hardpoint.contract.policy import SchedulingPolicy
from hardpoint.contract.step import StepPlan, StepResult
from hardpoint.engine.messages import EngineOutputs, EngineRequest, Finish, SchedulerStats
from hardpoint.scheduler.budget import StepBudget
from hardpoint.scheduler.intake import Intake
from hardpoint.scheduler.lifecycle import Lifecycle
from hardpoint.scheduler.outputs import OutputBuilder
from hardpoint.scheduler.planner import NO_BOUND, StepPlanner
from hardpoint.scheduler.running import RunningSet
from hardpoint.scheduler.sequence import State
from hardpoint.scheduler.step import PlanBuilder


class Scheduler:
    """Plans steps. Used from one thread; several plans may be out before the first result comes back.

    Results must be consumed in the order of their plans.

    Args:
        config: the engine's configuration.
        limits: what the platform can run in one step.
        kv: how the cache is divided.
        max_model_len: longest sequence in tokens, prompt and output together.
        vocab_size: token ids are below this.
        policy: the order of the queue.

    Raises:
        ConfigError: when the limits leave room for nothing.
    """

    def __init__(
        self,
        config: EngineConfig,
        limits: BatchLimits,
        kv: KVPlan,
        max_model_len: int,
        vocab_size: int,
        policy: SchedulingPolicy,
    ) -> None:
        settings = config.scheduler
        running = RunningSet(kv, limits, max_model_len, vocab_size, caching=config.cache.enable_prefix_caching)
        budget = StepBudget(limits, settings.max_num_batched_tokens or NO_BOUND, settings.max_num_seqs)
        self._running = running
        self._life = Lifecycle(running, policy)
        self._intake = Intake(
            running,
            budget,
            policy,
            max_model_len=max_model_len,
            vocab_size=vocab_size,
            chunked=settings.enable_chunked_prefill,
            seed=config.model.seed,
        )
        self._planner = StepPlanner(
            self._life,
            budget,
            max_running=min(settings.max_num_seqs, limits.max_requests),
            chunked=settings.enable_chunked_prefill,
            threshold=settings.long_prefill_token_threshold,
        )
        self._plans = PlanBuilder(running, hold=limits.sampled_per_step > 1, turns=budget.takes_turns)
        self._outputs = OutputBuilder(self._life)
        self._max_waiting = settings.max_waiting
        self._max_running = min(settings.max_num_seqs, limits.max_requests)

    def add(self, request: EngineRequest) -> None:
        """Queue a request.

        Raises:
            RequestError: when it is invalid or could never run to its end; the text names the numbers.
            QueueFullError: when more wait already than the configuration allows.
        """
        life = self._life
        for handle in request.handles:
            if handle in life.sequences:
                raise RequestError(f"request {request.request_id}: handle {handle} is in use")
        if len(set(request.handles)) != len(request.handles):
            raise RequestError(f"request {request.request_id}: a handle is given twice")
        if self._max_waiting is not None:
            # Who finds a free row does not queue.
            queued = life.num_waiting - (self._max_running - len(self._running))
            if queued >= self._max_waiting:
                raise QueueFullError(
                    f"{life.num_waiting} sequences wait and {len(self._running)} run; max_waiting is {self._max_waiting}; "
                    "try again later"
                )
        sequences = self._intake.sequences(request)
        for sequence in sequences:
            life.sequences[sequence.handle] = sequence
        life.queue.push(sequences[0])

    def abort(self, handles: Iterable[int]) -> None:
        """End sequences with ``Finish("abort")``; unknown and ended ones are ignored."""
        for handle in handles:
            sequence = self._life.sequences.get(handle)
            if sequence is not None:
                self._life.end(sequence, Finish(handle, "abort"))

    def propose(self, handle: int, token_ids: Iterable[int]) -> None:
        """Offer draft tokens that continue a running sequence after its last known token.

        The next step verifies as many as limits and free blocks allow (at most ``BatchLimits.sampled_per_step - 1``); they
        are ignored when the sequence has a step in flight.
        """
        ids = np.fromiter(token_ids, np.int32)
        if len(ids):
            self._planner.drafts[handle] = ids

    def schedule(self) -> StepPlan | None:
        """Plan a step; ``None`` when nothing can run before a result comes back or a request comes in."""
        step = self._planner.fill()
        if not step.chunks and not np.count_nonzero(step.ready):
            return None
        plan, flight = self._plans.build(step)
        self._life.flights[plan.step] = flight
        return plan

    def update(self, plan: StepPlan, result: StepResult) -> EngineOutputs:
        """Take in a step's result: append tokens, end sequences, free what they held.

        A result of a step from before :meth:`fail_all` is ignored.
        """
        return self._outputs.update(plan, result)

    def take_outputs(self) -> EngineOutputs | None:
        """Return ends that no step's outputs told (aborts while nothing runs); ``None`` when there are none."""
        return self._outputs.empty() if self._life.finished else None

    def fail_all(self, reason: str) -> None:
        """End every sequence with an error, forget steps in flight and everything cached.

        For a step that raised: what the cache holds since then is unknown.
        """
        life = self._life
        life.flights.clear()
        life.orphans.clear()
        for sequence in list(life.sequences.values()):
            # Members of a family end together; none of them is to take over.
            sequence.family = None
            life.end(sequence, Finish(sequence.handle, "error", error=reason, error_type="StepFailedError"))
        life.families.clear()
        self._planner.drafts.clear()
        self._running.pool.reset()

    @property
    def has_work(self) -> bool:
        """Whether sequences live, results are awaited or ends are untold."""
        life = self._life
        return bool(life.sequences or life.flights or life.finished)

    @property
    def num_in_flight(self) -> int:
        """Steps whose results are awaited."""
        return len(self._life.flights)

    def reset_prefix_cache(self) -> bool:
        """Forget cached prefixes; ``False`` when running sequences hold some of them, which stay."""
        return self._running.pool.reset()

    def stats(self) -> SchedulerStats:
        """Return gauges, and counters since the start."""
        life, pool = self._life, self._running.pool
        return SchedulerStats(
            running=len(self._running),
            waiting=life.num_waiting,
            blocks_total=pool.usable,
            blocks_used=pool.usable - pool.num_free,
            steps=self._plans.number,
            preemptions=life.preemptions,
            prefix_queries=self._planner.prefix_queries,
            prefix_hits=self._planner.prefix_hits,
            prompt_tokens=self._planner.prompt_tokens,
            generation_tokens=self._outputs.generation_tokens,
        )

    def check(self) -> None:
        """Check that rows, tables, pool and queue agree. For tests: the cost grows with the pool.

        Raises:
            AssertionError: naming what does not.
        """
        life, running = self._life, self._running
        tables, rows = running.tables, running.rows
        expected = np.zeros(running.pool.num_blocks, np.int32)
        for row in rows.running:
            for group in range(tables.num_groups):
                live = tables.live_blocks(row, group)
                assert (live > 0).all(), f"row {row} holds a null block"
                np.add.at(expected, live, 1)
        for family in life.families:
            for ids in family.blocks:
                np.add.at(expected, ids[ids != 0], 1)
        running.pool.check(expected)
        assert rows.num_free + len(rows.running) == len(rows), "rows are lost"
        states = {handle: sequence.state for handle, sequence in life.sequences.items()}
        assert State.FINISHED not in states.values(), "an ended sequence is kept"
        assert sum(s is State.RUNNING for s in states.values()) == len(rows.running), (
            "running sequences and rows differ"
        )
        assert sum(s is State.WAITING for s in states.values()) == len(life.queue), "waiting sequences and queue differ"
        settling = [sequence for sequence in life.orphans.values() if sequence.state is State.SETTLING]
        assert sum(s is State.SETTLING for s in states.values()) == len(settling), "a preempted sequence is lost"

    def assert_idle(self) -> None:
        """Check that nothing is left of any sequence: all blocks free, all counters zero.

        Raises:
            AssertionError: naming what is left.
        """
        life, running = self._life, self._running
        self.check()
        assert not life.sequences, f"sequences {list(life.sequences)[:8]} live"
        assert not life.flights, f"steps {list(life.flights)} are in flight"
        assert not life.orphans, "preempted sequences are left"
        assert not list(life.families), "prompts are held"
        assert running.pool.num_free == running.pool.usable, (
            f"{running.pool.usable - running.pool.num_free} blocks are held"
        )
        assert running.stops.empty, "stop ids are counted"
        assert not running.prefilling, "a prefill is left"
        for name in ("computed", "bound", "known", "flushed", "held"):
            assert not getattr(running.rows, name).any(), f"rows.{name} is not zero"
