"""How the rows of a decode step sample, as far as a prepared step can do it by itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from hardpoint.contract.step import Int32s
from hardpoint.runner.sampling.draws import SMALL
from hardpoint.runner.sampling.rows import LOGPROBS, MASKS, MIN_TOKENS, PENALTIES, RANDOM, TOP_K, WORDS, Rows
from hardpoint.runner.sampling.seeds import uniforms
from hardpoint.runner.step_buffer import StepFields

#: What a row draws from: nothing (it takes the most likely token), the whole vocabulary, or its top-k.
DRAWS_NOTHING: Final = 0
DRAWS_FULL: Final = 1
DRAWS_TOP_K: Final = 2

_EAGER: Final = MASKS | MIN_TOKENS | PENALTIES | WORDS | LOGPROBS

if TYPE_CHECKING:
    from hardpoint.ops import OpTable


@dataclass(frozen=True, slots=True)
class SamplingKind:
    """What a prepared step computes between logits and tokens, beside the most likely token of each row.

    Attributes:
        full: whether some row draws from the whole vocabulary.
        top_k: whether some row draws from its at most ``SMALL`` most likely tokens.
    """

    full: bool = False
    top_k: bool = False

    @property
    def draws(self) -> bool:
        """Whether some row samples at random."""
        return self.full or self.top_k


GREEDY: Final = SamplingKind()


def kind_of(rows: Rows, batch: Int32s) -> SamplingKind | None:
    """Return how the rows in ``batch`` sample; ``None`` when one of them needs what no prepared step does."""
    flags = rows.flags[batch]
    any_flags = int(np.bitwise_or.reduce(flags))
    if not any_flags:
        return GREEDY
    if any_flags & _EAGER:
        return None
    limited = flags & TOP_K > 0
    if any_flags & TOP_K and (rows.top_k[batch[limited]] > SMALL).any():
        return None
    return SamplingKind(full=bool(((flags & RANDOM > 0) & ~limited).any()), top_k=bool(any_flags & TOP_K))


def fill(fields: StepFields[np.ndarray[Any, Any]], rows: Rows, batch: Int32s, num_tokens: Int32s) -> None:
    """Write what the rows in ``batch`` draw with; the rest of the fields becomes rows that draw nothing.

    Args:
        fields: of a step of at least as many rows, on the host.
        rows: parameters.
        batch: int32[n], rows of a kind that draws.
        num_tokens: int32[n], the sequences' lengths before the new token.
    """
    count, flags = len(batch), rows.flags[batch]
    random, limited = flags & RANDOM > 0, flags & TOP_K > 0
    fields.draw[:count] = np.where(limited, DRAWS_TOP_K, np.where(random, DRAWS_FULL, DRAWS_NOTHING))
    fields.uniform[:count] = uniforms(rows.streams[batch], num_tokens)
    fields.top_p[:count] = np.where(random, rows.top_p[batch], 1.0)
    fields.top_k[:count] = np.where(limited, rows.top_k[batch], 1)
    fields.temperature[:count] = np.where(random, rows.temperature[batch], 1.0)
    fields.min_p[:count] = np.where(random, rows.min_p[batch], 0.0)
    fields.draw[count:] = DRAWS_NOTHING
    fields.uniform[count:] = fields.min_p[count:] = 0.0
    fields.top_p[count:] = fields.temperature[count:] = 1.0
    fields.top_k[count:] = 1


def choose(
    logits: torch.Tensor, fields: StepFields[torch.Tensor], kind: SamplingKind, ops: OpTable
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return each row's token, int64[n], and its largest logit, float32[n], from ``logits`` [n, vocab]."""
    likely, best = ops.best_token(logits)
    if not kind.draws:
        return likely, best
    tokens = likely
    if kind.full:
        drawn = ops.sample_full(logits, fields.uniform, fields.temperature, fields.min_p, fields.top_p)
        tokens = torch.where(fields.draw == DRAWS_FULL, drawn, tokens)
    if kind.top_k:
        drawn = ops.sample_top_k(
            logits, fields.uniform, fields.temperature, fields.min_p, fields.top_p, fields.top_k,
            min(SMALL, logits.shape[-1]),
        )  # fmt: skip
        tokens = torch.where(fields.draw == DRAWS_TOP_K, drawn, tokens)
    return torch.where(torch.isfinite(best), tokens, likely), best
