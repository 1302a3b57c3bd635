"""Sampling parameters against a model: what ``SamplingParams`` cannot check without knowing the vocabulary.

A token id outside the vocabulary must not reach a device: there it would be an index into someone else's logits (the
class of vLLM's PYSEC-2026-4000, where ``bad_words`` ids corrupted other requests).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from hardpoint.contract.errors import RequestError
from hardpoint.params import SamplingParams

#: Token ids in all bad words of a request together; every step compares a sequence's last tokens with each of them.
MAX_BAD_WORD_TOKENS: Final = 4096


def validate(
    params: SamplingParams, vocab_size: int, max_logprobs: int = -1, eos_token_ids: Iterable[int] = ()
) -> None:
    """Refuse parameters that a model with ``vocab_size`` tokens cannot serve.

    Call it when ``bad_words_token_ids`` is filled.

    Args:
        params: what the request asks for.
        vocab_size: ids are below this.
        max_logprobs: most log-probabilities per token; -1 is no bound.
        eos_token_ids: ids that end this request, none when it ignores them.

    Raises:
        RequestError: naming the parameter, its value, the reason and the way out.
    """
    for field, ids in _ids(params):
        _check_ids(field, ids, vocab_size)
    _check_bad_words(params)
    _check_count("logprobs", params.logprobs, vocab_size, max_logprobs)
    _check_count("prompt_logprobs", params.prompt_logprobs, vocab_size, max_logprobs)
    _check_choice(params, vocab_size, set(eos_token_ids))


def _ids(params: SamplingParams) -> Iterable[tuple[str, Iterable[Any]]]:
    """Yield every parameter that holds token ids."""
    yield "stop_token_ids", params.stop_token_ids or ()
    yield "logit_bias", params.logit_bias or ()
    yield "allowed_token_ids", params.allowed_token_ids or ()
    yield "logprob_token_ids", params.logprob_token_ids or ()
    for word in params.bad_words_token_ids or ():
        yield "bad_words_token_ids", word


def _check_ids(field: str, ids: Iterable[Any], vocab_size: int) -> None:
    for token in ids:
        if isinstance(token, bool) or not isinstance(token, int):
            raise RequestError(f"{field} holds {token!r}; token ids are whole numbers", field=field)
        if not 0 <= token < vocab_size:
            raise RequestError(
                f"{field} holds the token id {token}, which is outside the vocabulary of {vocab_size}; ids are 0 to "
                f"{vocab_size - 1}",
                field=field,
            )


def _check_bad_words(params: SamplingParams) -> None:
    words = params.bad_words_token_ids or ()
    if not all(words):
        raise RequestError("bad_words_token_ids holds an empty list; leave it out", field="bad_words_token_ids")
    total = sum(len(word) for word in words)
    if total > MAX_BAD_WORD_TOKENS:
        raise RequestError(
            f"the bad words have {total} tokens together, at most {MAX_BAD_WORD_TOKENS} can be served; use fewer or "
            "shorter ones",
            field="bad_words",
        )


def _check_count(field: str, asked: int | None, vocab_size: int, most: int) -> None:
    if asked is None:
        return
    if asked > vocab_size:
        raise RequestError(
            f"{field} is {asked}; the vocabulary has {vocab_size} tokens, -1 asks for all of them", field=field
        )
    count = vocab_size if asked == -1 else asked
    if most >= 0 and count > most:
        meaning = f" (all {vocab_size})" if asked == -1 else ""
        raise RequestError(
            f"{field} is {asked}{meaning}; at most {most} can be served, raise --max-logprobs for more", field=field
        )


def _check_choice(params: SamplingParams, vocab_size: int, eos: set[int]) -> None:
    """Refuse masks that together leave nothing to sample."""
    banned = {word[0] for word in params.bad_words_token_ids or () if len(word) == 1}
    if params.min_tokens:
        banned |= eos | set(params.stop_token_ids or ())
    allowed = range(vocab_size) if params.allowed_token_ids is None else params.allowed_token_ids
    if len(banned) < len(allowed) or any(token not in banned for token in allowed):
        return
    reasons = "bad words of one token"
    if params.min_tokens:
        reasons += f" and the end and stop tokens, which min_tokens={params.min_tokens} forbids at first,"
    field = "bad_words" if params.allowed_token_ids is None else "allowed_token_ids"
    raise RequestError(f"no token is left to sample: {reasons} cover all {len(allowed)} allowed ones", field=field)
