"""From a step's result to what the clients are told."""

from __future__ import annotations

import numpy as np

from hardpoint.contract.step import Int32s, StepPlan, StepResult, TokenLogprobs
from hardpoint.engine.messages import EngineOutputs, Finish, Logprobs
from hardpoint.scheduler.accept import Accepted, accept, judge
from hardpoint.scheduler.lifecycle import Lifecycle
from hardpoint.scheduler.sequence import Sequence, State
from hardpoint.scheduler.step import Flight


class OutputBuilder:
    """Takes in results and makes outputs."""

    def __init__(self, life: Lifecycle) -> None:
        self._life = life
        self.generation_tokens = 0

    def empty(self) -> EngineOutputs:
        """Return outputs that tell ends only."""
        outputs = EngineOutputs(
            handles=np.empty(0, np.int64), counts=np.empty(0, np.int32), tokens=np.empty(0, np.int32)
        )
        self._tell_ends(outputs)
        return outputs

    def update(self, plan: StepPlan, result: StepResult) -> EngineOutputs:
        """Take in the result of ``plan``; see :meth:`hardpoint.scheduler.Scheduler.update`."""
        life = self._life
        flight = life.flights.pop(plan.step, None)
        if flight is None:
            return self.empty()
        table = life.running.rows
        taken = accept(table, life.running.stops, flight, result)
        outputs = EngineOutputs(handles=taken.handles, counts=taken.counts, tokens=taken.tokens, cached=flight.cached)
        stale = set(taken.stale)
        if result.logprobs:
            self._tell_logprobs(outputs, flight, taken, result, stale)
        for at, part in result.prompt_logprobs.items():
            if at not in stale:
                self._tell_prompt(outputs, table.running[int(flight.rows[at])], part)
        for at in taken.stale:
            self._settle(outputs, flight, at, result)
        self.generation_tokens += len(outputs.tokens)
        for sequence, finish in taken.ends:
            life.end(sequence, finish)
        for at, reason in taken.failures:
            sequence = table.running[int(flight.rows[at])]
            life.end(sequence, Finish(sequence.handle, "error", error=reason))
        self._tell_ends(outputs)
        return outputs

    def _tell_ends(self, outputs: EngineOutputs) -> None:
        outputs.finished, self._life.finished = self._life.finished, []

    def _tell_logprobs(
        self, outputs: EngineOutputs, flight: Flight, taken: Accepted, result: StepResult, stale: set[int]
    ) -> None:
        table = self._life.running.rows
        for at, part in result.logprobs.items():
            if at not in stale and taken.kept[at]:
                outputs.logprobs.append(_named(int(table.handles[flight.rows[at]]), part, int(taken.kept[at])))

    def _tell_prompt(self, outputs: EngineOutputs, sequence: Sequence, part: TokenLogprobs) -> None:
        if not sequence.wants_prompt:
            return
        sequence.prompt_parts.append(part)
        if sum(len(piece.ranks) for piece in sequence.prompt_parts) >= sequence.num_prompt - 1:
            whole = TokenLogprobs.joined(sequence.prompt_parts)
            outputs.prompt_logprobs.append(_named(sequence.handle, whole, len(whole.ranks)))
            sequence.prompt_parts.clear()
            sequence.wants_prompt = False

    def _settle(self, outputs: EngineOutputs, flight: Flight, at: int, result: StepResult) -> None:
        """Take in what a step gave to a row that changed hands: it counts for a sequence that was preempted."""
        life = self._life
        row, generation = int(flight.rows[at]), int(flight.generations[at])
        sequence = life.orphans.get((row, generation))
        if sequence is None:
            return
        if sequence.state is State.SETTLING:
            if at in result.failures:
                life.end(sequence, Finish(sequence.handle, "error", error=result.failures[at]))
            elif flight.samples[at]:
                given = result.tokens[at, : int(result.counts[at])].astype(np.int32)
                count, finish = judge(sequence, len(sequence.tokens), given.tolist())
                self._append(outputs, sequence, given[:count])
                if at in result.logprobs and count:
                    outputs.logprobs.append(_named(sequence.handle, result.logprobs[at], count))
                if finish is not None:
                    life.end(sequence, finish)
        life.settle(row, generation)

    def _append(self, outputs: EngineOutputs, sequence: Sequence, tokens: Int32s) -> None:
        if len(tokens):
            sequence.tokens = np.concatenate((sequence.tokens, tokens))
            outputs.handles = np.append(outputs.handles, np.int64(sequence.handle))
            outputs.counts = np.append(outputs.counts, np.int32(len(tokens)))
            outputs.tokens = np.append(outputs.tokens, tokens)


def _named(handle: int, part: TokenLogprobs, count: int) -> Logprobs:
    return Logprobs(handle, part.token_ids[:count], part.values[:count], part.ranks[:count])
