"""One step: while it is made, the plan that comes of it, and what is remembered until its result is back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from hardpoint.blocks.tables import Rows
from hardpoint.contract.step import EMPTY, NO_PAIRS, Bools, Int32s, RowStart, StepPlan
from hardpoint.scheduler.running import RunningSet
from hardpoint.scheduler.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens of one row that is not in steady decode.

    Attributes:
        row: the row.
        size: tokens, drafts included.
        computed: tokens computed before.
        samples: whether the row samples after them.
        drafts: the speculative ones among them.
    """

    row: int
    size: int
    computed: int
    samples: bool
    drafts: Int32s = field(default_factory=lambda: EMPTY)


@dataclass(slots=True)
class Step:
    """A step under construction.

    Attributes:
        ready: bool[rows], rows that decode in this step (until ``decoded``, rows that could).
        decoded: whether the decodes are counted in the budget already.
        chunks: what other rows do.
        planned: rows of ``chunks``; they cannot be preempted any more.
        starts: sequences that took a row, with their tokens computed before.
        copies: (source, destination) blocks.
        cached: (handle, prompt tokens from the prefix cache) of sequences that started for the first time.
    """

    ready: Bools
    decoded: bool = False
    chunks: list[Chunk] = field(default_factory=list)
    planned: set[int] = field(default_factory=set)
    starts: list[tuple[Sequence, int]] = field(default_factory=list)
    copies: list[tuple[int, int]] = field(default_factory=list)
    cached: list[tuple[int, int]] = field(default_factory=list)

    def add(self, chunk: Chunk) -> None:
        """Put a chunk into the step."""
        self.chunks.append(chunk)
        self.planned.add(chunk.row)


@dataclass(frozen=True, slots=True)
class Flight:
    """A step whose result is awaited: its rows, whose sequences they were, and what to report with the result."""

    rows: Rows
    generations: npt.NDArray[np.int64]
    samples: Bools
    cached: list[tuple[int, int]]

    def holds(self, row: int, generation: int) -> bool:
        """Whether the step computes for this stay of a sequence in ``row``."""
        return bool(((self.rows == row) & (self.generations == generation)).any())


class PlanBuilder:
    """Turns finished steps into plans."""

    def __init__(self, running: RunningSet, *, hold: bool, turns: bool) -> None:
        self._running = running
        self._hold = hold
        self._turns = turns
        size = len(running.rows)
        # Steady decode hands out views of these; nobody writes to them.
        self._ones = np.ones(size, np.int32)
        self._true = np.ones(size, np.bool_)
        self._ones.flags.writeable = self._true.flags.writeable = False
        self.number = 0

    def build(self, step: Step) -> tuple[StepPlan, Flight]:
        """Return the plan of ``step`` and what to remember; rows that decode count their token as computed."""
        table = self._running.rows
        rows = step.ready.nonzero()[0]
        computed = table.computed[rows]
        num_decodes = len(rows)
        num_tokens, samples = self._ones[:num_decodes], self._true[:num_decodes]
        np.add(table.computed, step.ready, out=table.computed)
        if self._turns:
            table.turn[rows] = self.number
        drafts = None
        if step.chunks:
            single = [chunk for chunk in step.chunks if chunk.samples and chunk.size == 1]
            chunks = single + [chunk for chunk in step.chunks if not (chunk.samples and chunk.size == 1)]
            rows = np.concatenate((rows, np.array([chunk.row for chunk in chunks], np.intp)))
            computed = np.concatenate((computed, np.array([chunk.computed for chunk in chunks], np.int32)))
            num_tokens = np.concatenate((num_tokens, np.array([chunk.size for chunk in chunks], np.int32)))
            samples = np.concatenate((samples, np.array([chunk.samples for chunk in chunks], np.bool_)))
            drafts = _drafts(num_decodes, chunks)
            num_decodes += len(single)
        if self._hold:
            held = rows[samples]
            table.held[held] = True
            table.bound[held] = 0
        told: dict[str, Any] = {}
        changes = self._running.tables.take_changes()
        if changes is not None:
            told = dict(zip(("block_rows", "block_groups", "block_columns", "block_ids"), changes, strict=True))
        if table.stops:
            told["stops"] = np.array(table.stops, np.int32)
            table.stops.clear()
        plan = StepPlan(
            step=self.number,
            rows=rows.astype(np.int32),
            num_tokens=num_tokens,
            num_computed=computed,
            samples=samples,
            num_decodes=num_decodes,
            starts=tuple(self._start(sequence, before) for sequence, before in step.starts),
            copies=np.array(step.copies, np.int32) if step.copies else NO_PAIRS,
            drafts=drafts,
            **told,
        )
        self.number += 1
        return plan, Flight(rows, table.generation[rows], samples, step.cached)

    def _start(self, sequence: Sequence, computed: int) -> RowStart:
        row = sequence.row
        params = sequence.params
        if params.prompt_logprobs is not None and not sequence.wants_prompt:
            params = params.replace(prompt_logprobs=None)
        return RowStart(
            row=row,
            handle=sequence.handle,
            token_ids=sequence.tokens,
            num_prompt=sequence.num_prompt,
            num_computed=computed,
            blocks=self._running.tables.blocks(row),
            params=params,
            eos_token_ids=sequence.request.eos_token_ids,
            adapter=sequence.request.adapter,
        )


def _drafts(num_decodes: int, chunks: list[Chunk]) -> Int32s | None:
    longest = max(len(chunk.drafts) for chunk in chunks)
    if not longest:
        return None
    drafts = np.full((num_decodes + len(chunks), longest), -1, np.int32)
    for position, chunk in enumerate(chunks, num_decodes):
        drafts[position, : len(chunk.drafts)] = chunk.drafts
    return drafts
