"""A step cut into smaller ones, and their results put together again. For steps that do not fit the device's memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hardpoint.contract.step import Int32s, StepPlan, StepResult, TokenLogprobs


@dataclass(frozen=True, slots=True)
class Part:
    """One of the smaller steps.

    Attributes:
        plan: rows and tokens only; rows that start or stop and blocks that change are the whole step's business.
        at: int32[rows of ``plan``], their positions in the whole plan.
    """

    plan: StepPlan
    at: Int32s

    def without(self, positions: set[int]) -> Part | None:
        """Return the part without some of the whole plan's positions; ``None`` when nothing is left."""
        kept = ~np.isin(self.at, list(positions))
        if kept.all():
            return self
        return _part(self.plan, self.at, np.flatnonzero(kept)) if kept.any() else None


def split(part: Part, most: int) -> list[Part]:
    """Return ``part`` cut into parts of at most ``most`` tokens, in an order in which they may run.

    A row may read what another row of the same step writes at earlier positions, so parts go by position: whatever begins
    earlier in its sequence comes no later. A row longer than ``most`` is spread over several parts and samples in its last.

    Raises:
        ValueError: when ``most`` is below 1.
    """
    if most < 1:
        raise ValueError(f"a step cannot be cut into parts of {most} tokens")
    plan = part.plan
    chunks = zip(plan.num_tokens.tolist(), plan.num_computed.tolist(), strict=True)
    pieces = sorted(
        (computed + begin, row, min(most, count - begin), begin + most >= count)
        for row, (count, computed) in enumerate(chunks)
        for begin in range(0, count, most)
    )
    parts: list[list[tuple[int, int, int, bool]]] = [[]]
    room = most
    for piece in pieces:
        if piece[2] > room:
            parts.append([])
            room = most
        parts[-1].append(piece)
        room -= piece[2]
    return [_of_pieces(part, sorted(chosen, key=lambda piece: piece[1])) for chosen in parts]


def whole(plan: StepPlan) -> Part:
    """Return a plan as its only part; what it says beside rows and tokens is left out."""
    every = np.arange(len(plan.rows), dtype=np.int32)
    return _part(plan, every, every)


def join(
    plan: StepPlan, done: Sequence[tuple[Part, StepResult]], failures: dict[int, str], *, width: int = 1
) -> StepResult:
    """Return the whole step's result.

    Args:
        plan: the whole step.
        done: the parts that ran, in their order, with their results.
        failures: plan position -> reason, of rows whose parts did not run.
        width: columns of ``StepResult.tokens`` at least.
    """
    width = max([width, *(result.tokens.shape[1] for _part, result in done)])
    tokens, counts = np.zeros((len(plan.rows), width), np.int32), np.zeros(len(plan.rows), np.int32)
    result = StepResult(step=plan.step, tokens=tokens, counts=counts)
    prompts: dict[int, list[TokenLogprobs]] = {}
    for part, one in done:
        at = part.at
        sampled = one.counts > 0
        tokens[at[sampled], : one.tokens.shape[1]] = one.tokens[sampled]
        counts[at[sampled]] = one.counts[sampled]
        result.logprobs.update({int(at[own]): value for own, value in one.logprobs.items()})
        result.failures.update({int(at[own]): reason for own, reason in one.failures.items()})
        for own, value in one.prompt_logprobs.items():
            prompts.setdefault(int(at[own]), []).append(value)
    result.prompt_logprobs.update({at: TokenLogprobs.joined(values) for at, values in prompts.items()})
    result.failures.update(failures)
    counts[list(result.failures)] = 0
    return result


def _part(plan: StepPlan, at: Int32s, kept: npt.NDArray[np.integer[Any]]) -> Part:
    return Part(
        plan=StepPlan(
            step=plan.step,
            rows=plan.rows[kept],
            num_tokens=plan.num_tokens[kept],
            num_computed=plan.num_computed[kept],
            samples=plan.samples[kept],
            num_decodes=int(np.count_nonzero(kept < plan.num_decodes)),
            drafts=None if plan.drafts is None else plan.drafts[kept],
        ),
        at=at[kept],
    )


def _of_pieces(part: Part, pieces: list[tuple[int, int, int, bool]]) -> Part:
    """Return the part of some pieces: (first position, row, tokens, whether they end the row's chunk), by row."""
    rows = np.array([row for _first, row, _count, _last in pieces], np.int64)
    chosen = _part(part.plan, part.at, rows)
    plan = chosen.plan
    ends = np.array([last for *_, last in pieces])
    cut = StepPlan(
        step=plan.step,
        rows=plan.rows,
        num_tokens=np.array([count for _first, _row, count, _last in pieces], np.int32),
        num_computed=np.array([first for first, *_ in pieces], np.int32),
        samples=plan.samples & ends,
        num_decodes=plan.num_decodes,
        drafts=plan.drafts,
    )
    return Part(plan=cut, at=chosen.at)
