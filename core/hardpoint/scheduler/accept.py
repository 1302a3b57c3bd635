"""Which of a step's sampled tokens count, and which sequences end with them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hardpoint.blocks.tables import Rows
from hardpoint.contract.step import Int32s, StepResult
from hardpoint.engine.messages import Finish
from hardpoint.scheduler.rows import RowTable
from hardpoint.scheduler.sequence import Sequence
from hardpoint.scheduler.step import Flight
from hardpoint.scheduler.stops import StopTable


@dataclass(slots=True)
class Accepted:
    """What of a result counts for sequences that still run.

    Attributes:
        handles: int64[m].
        counts: int32[m].
        tokens: int32[sum(counts)].
        kept: int32[n], per plan position how many tokens count.
        stale: positions whose row changed hands since the plan.
        ends: sequences that these tokens end.
        failures: position and reason of rows that cannot go on.
    """

    handles: npt.NDArray[np.int64]
    counts: Int32s
    tokens: Int32s
    kept: Int32s
    stale: list[int]
    ends: list[tuple[Sequence, Finish]]
    failures: list[tuple[int, str]]


def accept(table: RowTable, stops: StopTable, flight: Flight, result: StepResult) -> Accepted:
    """Append a result's tokens to their rows, as far as they count.

    Tokens after a stop token or past a sequence's limit do not count, nor do those of rows that changed hands.
    """
    rows = flight.rows
    live = table.generation[rows] == flight.generations
    sampled = live & flight.samples
    counts = (result.counts * sampled).astype(np.int32, copy=False)
    failures = [(at, reason) for at, reason in result.failures.items() if live[at]]
    for at, _reason in failures:
        counts[at] = 0
    positions = counts.nonzero()[0]
    if len(positions) < np.count_nonzero(sampled):
        failed = {at for at, _reason in failures}
        silent = (sampled & (counts == 0)).nonzero()[0].tolist()
        failures += [(at, "the runner returned no token") for at in silent if at not in failed]
    owners = rows[positions]
    kept = counts
    if result.tokens.shape[1] == 1:
        tokens = result.tokens[positions, 0].astype(np.int32, copy=False)
        ends = _put_one(table, stops, owners, tokens)
        given = counts[positions]
    else:
        ends = _put_many(table, stops, owners, positions, result.tokens, kept)
        given = kept[positions]
        valid = np.arange(result.tokens.shape[1]) < given[:, None]
        tokens = result.tokens[positions][valid].astype(np.int32, copy=False)
    held = owners[table.held[owners]]
    if len(held):
        table.computed[held] = table.known[held] - 1
        table.bound[held] = table.limit[held] - 1
        table.held[held] = False
    return Accepted(
        handles=table.handles[owners],
        counts=given,
        tokens=tokens,
        kept=kept,
        stale=[] if np.count_nonzero(live) == len(rows) else (~live).nonzero()[0].tolist(),
        ends=ends,
        failures=failures,
    )


def judge(sequence: Sequence, known: int, tokens: list[int]) -> tuple[int, Finish | None]:
    """Return how many of ``tokens``, which come after ``known`` tokens, count, and the end that they bring."""
    for count, token in enumerate(tokens, 1):
        if sequence.stopped_by(token, known + count - sequence.num_prompt):
            stop = None if token in sequence.request.eos_token_ids else token
            return count, Finish(sequence.handle, "stop", stop)
        if known + count >= sequence.limit:
            return count, Finish(sequence.handle, "length")
    return len(tokens), None


def _put_one(table: RowTable, stops: StopTable, rows: Rows, tokens: Int32s) -> list[tuple[Sequence, Finish]]:
    known = table.known[rows]
    candidates = stops.candidates(tokens) | (known + 1 >= table.limit[rows])
    table.put(rows, tokens)
    ends = []
    for at in candidates.nonzero()[0].tolist():
        sequence = table.running[int(rows[at])]
        _count, finish = judge(sequence, int(known[at]), [int(tokens[at])])
        if finish is not None:
            ends.append((sequence, finish))
    return ends


def _put_many(
    table: RowTable, stops: StopTable, rows: Rows, positions: Rows, tokens: Int32s, kept: Int32s
) -> list[tuple[Sequence, Finish]]:
    given = kept[positions]
    block = tokens[positions]
    valid = np.arange(block.shape[1]) < given[:, None]
    candidates = (stops.candidates(block) & valid).any(axis=1) | (table.known[rows] + given >= table.limit[rows])
    ends = []
    for at in candidates.nonzero()[0].tolist():
        sequence = table.running[int(rows[at])]
        count, finish = judge(sequence, int(table.known[rows[at]]), block[at, : given[at]].tolist())
        given[at] = count
        if finish is not None:
            ends.append((sequence, finish))
    kept[positions] = given
    for column in range(int(given.max(initial=0))):
        more = given > column
        table.put(rows[more], block[more, column])
    return ends
