"""The null device: executors without a model, for tests and for measuring the host.

:class:`NullExecutor` does what a runner does with a plan, on a simulated cache, and checks it; :class:`FastNullExecutor`
answers at once.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hardpoint.contract.kv import KVBudget, KVPlan, KVSpec
from hardpoint.contract.step import Int32s, RowStart, StepPlan, StepResult, TokenLogprobs
from hardpoint.testing.null_memory import NullMemory, NullPlanError
from hardpoint.testing.null_model import NullModel, scramble


class NullStepError(RuntimeError):
    """The failure that a test asked for."""


@dataclass(slots=True)
class NullPending:
    """A step whose result is there after ``due`` (seconds of ``time.monotonic``)."""

    outcome: StepResult | Exception
    due: float = 0.0

    def ready(self) -> bool:
        """Whether :meth:`result` returns at once."""
        return time.monotonic() >= self.due

    def result(self) -> StepResult:
        """Wait for the result; raises what the step raised."""
        if (wait := self.due - time.monotonic()) > 0:
            time.sleep(wait)
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


@dataclass(slots=True)
class _Row:
    """What a device knows of a row: what started it, tokens computed, the newest token, tokens sampled."""

    start: RowStart
    computed: int
    sampled: list[int] = field(default_factory=list)

    def token(self, position: int) -> int:
        known = self.start.token_ids
        return int(known[position]) if position < len(known) else self.sampled[position - len(known)]

    @property
    def length(self) -> int:
        return len(self.start.token_ids) + len(self.sampled)


class NullExecutor:
    """Runs plans on a simulated cache, in the order of their submission, and raises when one breaks the contract.

    A plan that is wrong in a way that it cannot see (another sequence's block with the right positions) gives other
    tokens than :meth:`NullModel.generate`.

    Args:
        model: what computes tokens.
        block_size, num_blocks: what the device offers.
        num_rows: rows of its persistent batch.
        sampled_per_step: most tokens that a row may get from a step.
        multi_step: whether rows get several tokens without drafts, a number that varies; plans must reserve blocks for
            them (``BatchLimits.lookahead``).
        max_model_len: no token is computed from this position on.
        latency: seconds from the submission of a step to its result.
        fail_step: number of a step that raises :class:`NullStepError`, ``None`` for none.
        fails_again, fails_for_good: whether all later steps fail too; whether it cannot recover.
        fails_at_submission: whether a step fails when it is submitted, not when its result is asked for.
        fail_handles: handle -> reason of sequences that fail when they next sample.
    """

    def __init__(
        self,
        model: NullModel,
        *,
        block_size: int = 16,
        num_blocks: int = 64,
        num_rows: int = 16,
        sampled_per_step: int = 1,
        multi_step: bool = False,
        max_model_len: int = 2**31 - 1,
        latency: float = 0.0,
        fail_step: int | None = None,
        fails_again: bool = False,
        fails_for_good: bool = False,
        fails_at_submission: bool = False,
        fail_handles: dict[int, str] | None = None,
    ) -> None:
        self.model = model
        self.fail_step = fail_step
        self._fails_again = fails_again
        self._fails_for_good = fails_for_good
        self._fails_at_submission = fails_at_submission
        self.idle_calls = 0
        self.fail_handles = fail_handles if fail_handles is not None else {}
        self.steps: list[StepPlan] = []
        self._block_size = block_size
        self._num_blocks = num_blocks
        self._num_rows = num_rows
        self._sampled_per_step = sampled_per_step
        self._multi_step = multi_step
        self._max_model_len = max_model_len
        self._latency = latency
        self._rows: dict[int, _Row] = {}
        self._memory: NullMemory | None = None
        self._broken = False
        self._tolerant = False

    def load(self) -> None:
        """Nothing to load."""

    def kv_specs(self) -> tuple[KVSpec, ...]:
        """Return one layer per group."""
        return tuple(KVSpec(num_kv_heads=1, head_size=1, dtype="float32", window=w) for w in self.model.windows)

    def block_bytes(self, spec: KVSpec, block_size: int) -> int:
        """Return the nominal bytes of a block."""
        return spec.token_bytes * block_size

    def kv_budget(self) -> KVBudget:
        """Return the number of blocks that it was made with."""
        return KVBudget(block_size=self._block_size, num_blocks=self._num_blocks)

    def start(self, kv: KVPlan) -> None:
        """Make the simulated cache."""
        if tuple(group.window for group in kv.groups) != self.model.windows:
            raise NullPlanError(f"the model has windows {self.model.windows} and the plan groups {kv.groups}")
        self._memory = NullMemory(self.model, kv, self._num_rows)

    def submit(self, plan: StepPlan) -> NullPending:
        """Run a step; its result is due after the latency."""
        self.steps.append(plan)
        due = time.monotonic() + self._latency if self._latency else 0.0
        if self.fail_step is not None and (
            plan.step >= self.fail_step if self._fails_again else plan.step == self.fail_step
        ):
            self._broken = True
        if self._broken:
            error = NullStepError(f"step {plan.step} fails as asked")
            if self._fails_at_submission:
                raise error
            return NullPending(error, due)
        return NullPending(self._run(plan), due)

    def recover(self) -> str | None:
        """Run again after a step that failed (all later ones fail too): every row is free, the cache holds anything."""
        if self._fails_for_good:
            return "the null device is broken for good, as asked"
        self._broken = False
        self._tolerant = True
        self._rows.clear()
        return None

    def idle(self) -> bool:
        """Count the call; there is nothing to do."""
        self.idle_calls += 1
        return self.idle_calls % 3 != 0

    def start_profile(self) -> None:
        """Nothing runs on a device."""

    def stop_profile(self, path: str) -> None:
        """Write a trace without events."""
        Path(path).write_text('{"traceEvents": []}', encoding="utf-8")

    def check(self) -> None:
        """There are no workers that could die."""

    def describe(self) -> Mapping[str, Any]:
        """Return what it is."""
        return {"device": "null", "windows": list(self.model.windows)}

    def close(self) -> None:
        """Nothing to close."""

    # One step

    def _run(self, plan: StepPlan) -> StepResult:
        memory = self._memory
        if memory is None:
            raise NullPlanError("a step came before start()")
        self._apply(memory, plan)
        self._check_shape(plan)
        count = len(plan.rows)
        tokens = np.full((count, self._sampled_per_step), -1, np.int32)
        counts = np.zeros(count, np.int32)
        result = StepResult(step=plan.step, tokens=tokens, counts=counts)
        written: dict[tuple[int, int], int] = {}
        # A row may read what another writes in the same step: that one computes earlier positions.
        order = sorted(range(count), key=lambda at: int(plan.num_computed[at]))
        for at in order:
            self._write(memory, plan, at, written)
        for at in order:
            self._sample(memory, plan, at, result, written)
        return result

    def _apply(self, memory: NullMemory, plan: StepPlan) -> None:
        for row in plan.stops.tolist():
            if row not in self._rows and not self._tolerant:
                raise NullPlanError(f"step {plan.step} stops row {row}, which does not run")
            self._rows.pop(row, None)
            for table in memory.tables:
                table[row].clear()
        # The first plan after a failure stops rows of steps that never ran.
        self._tolerant = False
        for start in plan.starts:
            if start.row in self._rows:
                raise NullPlanError(f"step {plan.step} starts row {start.row}, which runs")
            if not 0 <= start.row < self._num_rows:
                raise NullPlanError(f"step {plan.step} starts row {start.row} of {self._num_rows}")
            if start.params.seed is None:
                raise NullPlanError(f"step {plan.step} starts row {start.row} without a seed")
            self._rows[start.row] = _Row(start, start.num_computed)
            for table, blocks in zip(memory.tables, start.blocks, strict=True):
                table[start.row] = dict(enumerate(blocks.tolist()))
        updates = (plan.block_rows, plan.block_groups, plan.block_columns, plan.block_ids)
        for row, group, column, block in zip(*(array.tolist() for array in updates), strict=True):
            if row not in self._rows:
                raise NullPlanError(f"step {plan.step} gives block {block} to row {row}, which does not run")
            memory.tables[group][row][column] = block
        for source, destination in plan.copies.tolist():
            memory.copy(source, destination)

    def _check_shape(self, plan: StepPlan) -> None:
        if len(set(plan.rows.tolist())) != len(plan.rows):
            raise NullPlanError(f"step {plan.step} runs a row twice: {plan.rows}")
        for at, row in enumerate(plan.rows.tolist()):
            state = self._rows.get(row)
            if state is None:
                raise NullPlanError(f"step {plan.step} runs row {row}, which did not start")
            if state.computed != plan.num_computed[at]:
                raise NullPlanError(
                    f"step {plan.step}: row {row} has {state.computed} tokens computed, the plan says {plan.num_computed[at]}"
                )
            drafts = self._drafts(plan, at)
            end = state.computed + int(plan.num_tokens[at]) - len(drafts)
            if not state.computed < end <= state.length:
                raise NullPlanError(
                    f"step {plan.step}: row {row} knows {state.length} tokens and is to compute up to {end}"
                )
            if bool(plan.samples[at]) != (end == state.length):
                raise NullPlanError(
                    f"step {plan.step}: row {row} samples {plan.samples[at]} at {end} of {state.length} tokens"
                )
            single = end == state.length and plan.num_tokens[at] == 1
            if single != (at < plan.num_decodes):
                raise NullPlanError(
                    f"step {plan.step}: row {row} at {at} is on the wrong side of num_decodes={plan.num_decodes}"
                )

    @staticmethod
    def _drafts(plan: StepPlan, at: int) -> list[int]:
        return [] if plan.drafts is None else [draft for draft in plan.drafts[at].tolist() if draft >= 0]

    def _put(
        self, memory: NullMemory, row: int, position: int, token: int, written: dict[tuple[int, int], int]
    ) -> None:
        for slot in memory.write(row, position, token, self._rows[row].start.adapter):
            if written.setdefault(slot, row) != row:
                raise NullPlanError(
                    f"rows {written[slot]} and {row} write block {slot[0]} offset {slot[1]} in one step"
                )

    def _write(self, memory: NullMemory, plan: StepPlan, at: int, written: dict[tuple[int, int], int]) -> None:
        row = int(plan.rows[at])
        state = self._rows[row]
        drafts = self._drafts(plan, at)
        for position in range(state.computed, state.computed + int(plan.num_tokens[at])):
            token = state.token(position) if position < state.length else drafts[position - state.length]
            self._put(memory, row, position, token, written)

    def _next(self, memory: NullMemory, row: int, position: int) -> int:
        """Return the token after ``position``, read through the row's block tables."""
        state = self._rows[row]
        parts = []
        for group, window in enumerate(self.model.windows):
            first = 0 if window is None else max(position - window + 1, 0)
            parts.append(self.model.attend(memory.read(group, row, first, position + 1), first))
        start = state.start
        return self.model.sample(parts, start.params, start.eos_token_ids, position + 1 - start.num_prompt)

    def _sample(
        self, memory: NullMemory, plan: StepPlan, at: int, result: StepResult, written: dict[tuple[int, int], int]
    ) -> None:
        row = int(plan.rows[at])
        state = self._rows[row]
        begin = state.computed
        drafts = self._drafts(plan, at)
        end = begin + int(plan.num_tokens[at]) - len(drafts)
        self._tell_prompt(state, begin, end, at, result)
        state.computed = end
        if not plan.samples[at]:
            return
        if state.start.handle in self.fail_handles:
            result.failures[at] = self.fail_handles.pop(state.start.handle)
            # The host does not know yet and may have planned the row's next step; the device goes on with something.
            state.sampled.append(0)
            return
        given = [self._next(memory, row, end - 1)]
        state.sampled.append(given[0])
        for draft in drafts:
            if draft != given[-1]:
                break
            state.computed += 1
            given.append(self._next(memory, row, state.computed - 1))
            state.sampled.append(given[-1])
        # As many as a hash says, so that rows come apart.
        while self._multi_step and len(given) < self._sampled_per_step and scramble(state.length) % 3:
            if state.computed >= self._max_model_len:
                break
            self._put(memory, row, state.computed, given[-1], written)
            state.computed += 1
            given.append(self._next(memory, row, state.computed - 1))
            state.sampled.append(given[-1])
        result.tokens[at, : len(given)] = given
        result.counts[at] = len(given)
        if state.start.params.logprobs is not None:
            result.logprobs[at] = logprobs_of(np.array(given, np.int32), state.start.params.logprobs)

    def _tell_prompt(self, state: _Row, begin: int, end: int, at: int, result: StepResult) -> None:
        wanted = state.start.params.prompt_logprobs
        told = state.start.token_ids[begin + 1 : min(end + 1, state.start.num_prompt)]
        if wanted is not None and len(told):
            result.prompt_logprobs[at] = logprobs_of(told, wanted)


def logprobs_of(tokens: Int32s, alternatives: int) -> TokenLogprobs:
    """Return made-up log-probabilities of ``tokens`` that depend on nothing but them."""
    columns = np.arange(1 + max(alternatives, 0), dtype=np.int32)
    return TokenLogprobs(
        token_ids=(tokens[:, None] + columns).astype(np.int32),
        values=(-1.0 - tokens[:, None] - columns).astype(np.float32),
        ranks=tokens + 1,
    )


class FastNullExecutor:
    """Answers every plan at once with tokens that depend on the step only; for measuring the host.

    Args:
        vocab_size: ids are below this and above 0.
    """

    def __init__(self, vocab_size: int = 32000) -> None:
        self._vocab_size = vocab_size

    def submit(self, plan: StepPlan) -> NullPending:
        """Return a result with one token for each row that samples."""
        token = 1 + plan.step % (self._vocab_size - 1)
        tokens = np.full((len(plan.rows), 1), token, np.int32)
        return NullPending(StepResult(step=plan.step, tokens=tokens, counts=plan.samples.astype(np.int32)))
