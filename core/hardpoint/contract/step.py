"""What crosses from the scheduler to a runner and back: one step's plan and its result.

Everything here is numbers in numpy arrays, so that a runner that knows no torch can serve it and so that it can cross a
process border without pickle. A plan says what *changed* since the last plan plus which rows run how many tokens; the
runner keeps the rest in a persistent batch of ``BatchLimits.max_requests`` rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from hardpoint.params import SamplingParams

Int32s = npt.NDArray[np.int32]
Float32s = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]

EMPTY: Int32s = np.empty(0, np.int32)
NO_PAIRS: Int32s = np.empty((0, 2), np.int32)


@dataclass(frozen=True, slots=True, kw_only=True)
class RowStart:
    """A sequence takes a row of the persistent batch: it is new, or it resumes after a preemption.

    Attributes:
        row: the row, free since an earlier plan's ``stops`` or never used.
        handle: the sequence's number, unique in the life of the engine.
        token_ids: int32[known], the prompt followed by the tokens sampled before a preemption.
        num_prompt: how many of ``token_ids`` are the prompt.
        num_computed: tokens whose keys and values are in the given blocks already (prefix hit, fork).
        blocks: per group int32[blocks], the block table so far.
        params: how to sample. ``params.seed`` is always set (the scheduler draws one where the request has none).
        eos_token_ids: ids that end the sequence (masked while ``params.min_tokens`` is not reached).
        adapter: name of the adapter to apply, or ``None``.
    """

    row: int
    handle: int
    token_ids: Int32s
    num_prompt: int
    num_computed: int
    blocks: tuple[Int32s, ...]
    params: SamplingParams
    eos_token_ids: tuple[int, ...] = ()
    adapter: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPlan:
    """One step. Rows come in the order decodes first, then rows with several tokens.

    Copies come before everything else. A row may attend to keys and values that another row of the same step writes (a
    prefix that both share): each layer writes those of the whole step before it attends.

    Attributes:
        step: number of the step, counting from 0.
        starts: rows taken in this step.
        stops: int32[...], rows given back since the last plan; applied before ``starts``.
        block_rows, block_groups, block_columns, block_ids: int32[m] each: block table entries to set before the step,
            ``table[group][row, column] = id`` (entries of ``starts`` are not repeated here).
        copies: int32[c, 2], (source, destination) blocks to copy in every layer before the step (copy-on-write).
        rows: int32[n], the rows that run.
        num_tokens: int32[n], tokens that each of them computes: known ones not computed yet, then drafts.
        num_computed: int32[n], tokens computed before this step, those of steps still in flight counted as done.
        samples: bool[n], whether the row samples after its last token (false for a chunk that does not end the
            known tokens).
        num_decodes: the first ``num_decodes`` rows compute one token each, which the runner sampled itself in an earlier
            step (it may still be on the device only) or which is the last one of ``RowStart.token_ids``.
        drafts: int32[n, k] or ``None``: speculative tokens per row, -1 where a row has fewer.
    """

    step: int
    rows: Int32s
    num_tokens: Int32s
    num_computed: Int32s
    samples: Bools
    num_decodes: int
    starts: tuple[RowStart, ...] = ()
    stops: Int32s = field(default_factory=lambda: EMPTY)
    block_rows: Int32s = field(default_factory=lambda: EMPTY)
    block_groups: Int32s = field(default_factory=lambda: EMPTY)
    block_columns: Int32s = field(default_factory=lambda: EMPTY)
    block_ids: Int32s = field(default_factory=lambda: EMPTY)
    copies: Int32s = field(default_factory=lambda: NO_PAIRS)
    drafts: Int32s | None = None

    @property
    def total_tokens(self) -> int:
        """Tokens that the step computes over all rows."""
        return int(self.num_tokens.sum())


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLogprobs:
    """Log-probabilities of ``t`` tokens: column 0 is the token itself, then the ``k`` most likely ones in order.

    Attributes:
        token_ids: int32[t, 1 + k].
        values: float32[t, 1 + k], natural logarithms.
        ranks: int32[t], rank of the token itself, 1 for the most likely.
    """

    token_ids: Int32s
    values: Float32s
    ranks: Int32s

    @staticmethod
    def joined(parts: Sequence[TokenLogprobs]) -> TokenLogprobs:
        """Return those of consecutive tokens as one."""
        return TokenLogprobs(
            token_ids=np.concatenate([part.token_ids for part in parts]),
            values=np.concatenate([part.values for part in parts]),
            ranks=np.concatenate([part.ranks for part in parts]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """What a step gave, in the order of the plan's rows.

    Attributes:
        step: the plan's number.
        tokens: int32[n, k], sampled tokens per row; ``k`` is at least 1 and at most ``BatchLimits.sampled_per_step``.
        counts: int32[n], how many of a row's ``tokens`` are valid; 0 for a row that did not sample.
        logprobs: plan position -> log-probabilities of the row's sampled tokens, for rows that asked.
        prompt_logprobs: plan position -> log-probabilities of the prompt tokens ``num_computed + 1`` up to
            ``num_computed + num_tokens`` that exist, for rows that asked and computed prompt tokens.
        failures: plan position -> reason, for rows that cannot go on (for example logits that are not numbers). The
            scheduler ends these requests with an error, and only these.
    """

    step: int
    tokens: Int32s
    counts: Int32s
    logprobs: dict[int, TokenLogprobs] = field(default_factory=dict)
    prompt_logprobs: dict[int, TokenLogprobs] = field(default_factory=dict)
    failures: dict[int, str] = field(default_factory=dict)
