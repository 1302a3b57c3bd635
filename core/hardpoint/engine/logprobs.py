"""From arrays of log-probabilities to what callers read."""

from __future__ import annotations

from hardpoint.engine.messages import Logprobs
from hardpoint.outputs import Logprob, PromptLogprobs, SampleLogprobs
from hardpoint.text.tokenizer import Tokenizer


def sample_logprobs(found: Logprobs, tokenizer: Tokenizer | None, *, ranked: bool = True) -> SampleLogprobs:
    """Return one dict a token: the token itself first, then the most likely ones in order.

    Args:
        found: column 0 is the token, the others follow by rank.
        tokenizer: for ``decoded_token``.
        ranked: whether the columns after the first are the most likely ones; ids that were asked for have no known rank.
    """
    ids, values, ranks = found.token_ids.tolist(), found.values.tolist(), found.ranks.tolist()
    return [
        _position(row, logprobs, rank, tokenizer, ranked)
        for row, logprobs, rank in zip(ids, values, ranks, strict=True)
    ]


def prompt_logprobs(found: Logprobs, tokenizer: Tokenizer | None) -> PromptLogprobs:
    """Return the same for a prompt; its first token has no probability."""
    return [None, *sample_logprobs(found, tokenizer)]


def _position(
    ids: list[int], values: list[float], rank: int, tokenizer: Tokenizer | None, ranked: bool
) -> dict[int, Logprob]:
    position: dict[int, Logprob] = {}
    for column, (token, value) in enumerate(zip(ids, values, strict=True)):
        if token < 0 or token in position:
            continue
        place = rank if column == 0 else column if ranked else None
        position[token] = Logprob(value, place, None if tokenizer is None else tokenizer.token_text(token))
    return position
