"""A step on a torch device whose tokens may still be on their way to the host."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from hardpoint.contract.device import HostCopy
from hardpoint.contract.step import Int32s, StepPlan, StepResult, TokenLogprobs

_NO_TOKEN: Final = (
    "no token can be sampled: the model's logits are not numbers (damaged weights, or a type too narrow for the model), or "
    "allowed_token_ids, bad_words and min_tokens leave none"
)


class PendingStep:
    """A step whose tokens may still be on their way to the host.

    Args:
        plan: the step's.
        sample_at: int32[m], plan positions of the rows that sample.
        tokens: int32[m] under way, -1 for rows that cannot go on; ``None`` when no row samples.
        logprobs: waits for log-probabilities by position in ``sample_at``.
        prompt_logprobs: waits for those of prompts by plan position.
    """

    def __init__(
        self,
        plan: StepPlan,
        sample_at: Int32s,
        tokens: HostCopy | None,
        logprobs: Callable[[], dict[int, TokenLogprobs]],
        prompt_logprobs: Callable[[], dict[int, TokenLogprobs]],
    ) -> None:
        self._plan = plan
        self._at = sample_at
        self._tokens = tokens
        self._logprobs = logprobs
        self._prompt_logprobs = prompt_logprobs

    def ready(self) -> bool:
        return self._tokens is None or self._tokens.ready()

    def result(self) -> StepResult:
        """Wait for the tokens and return the step's result."""
        count = len(self._plan.rows)
        tokens, counts = np.zeros((count, 1), np.int32), np.zeros(count, np.int32)
        failures: dict[int, str] = {}
        if self._tokens is not None:
            found = self._tokens.result()
            tokens[self._at, 0] = found
            counts[self._at] = 1
            for at in self._at[found < 0]:
                failures[int(at)] = _NO_TOKEN
                counts[at] = 0
        return StepResult(
            step=self._plan.step,
            tokens=tokens,
            counts=counts,
            logprobs={int(self._at[i]): value for i, value in self._logprobs().items()},
            prompt_logprobs=self._prompt_logprobs(),
            failures=failures,
        )
