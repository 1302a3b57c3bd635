"""Log-probabilities of prompt tokens, for the rows of a step that asked for them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from hardpoint.contract.step import StepPlan, TokenLogprobs
from hardpoint.runner.batch import PersistentBatch
from hardpoint.runner.sampling import Sampler


class PromptLogprobs:
    """Computes what a chunk says about the prompt tokens that follow each of its positions.

    Args:
        sampler: owner of the log-probability kernel.
        logits: hidden [t, H] -> [t, vocab].
    """

    def __init__(self, sampler: Sampler, logits: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self._sampler = sampler
        self._logits = logits

    def of(
        self, plan: StepPlan, batch: PersistentBatch, hidden: torch.Tensor
    ) -> Callable[[], dict[int, TokenLogprobs]]:
        """Start the computation for all rows that asked; the returned function waits for it."""
        pending: dict[int, Callable[[], TokenLogprobs]] = {}
        if batch.prompt_logprob_rows:
            first = np.cumsum(plan.num_tokens) - plan.num_tokens
            for at in np.flatnonzero(np.isin(plan.rows, list(batch.prompt_logprob_rows))):
                start, computed = batch.starts[plan.rows[at]], int(plan.num_computed[at])
                if start is None or computed + 1 >= start.num_prompt:
                    continue
                stop = min(computed + int(plan.num_tokens[at]), start.num_prompt - 1)
                targets = start.token_ids[computed + 1 : stop + 1].astype(np.int64)
                chunk = hidden[first[at] : first[at] + len(targets)]
                pending[int(at)] = self._sampler.prompt_logprobs(
                    lambda rows: self._logits(rows).float(),
                    chunk,
                    batch.upload(targets),
                    start.params.prompt_logprobs or 0,
                )
        return lambda: {at: finish() for at, finish in pending.items()}
