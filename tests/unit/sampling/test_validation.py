"""Parameters against a vocabulary."""

from __future__ import annotations

from typing import Any

import pytest

from hardpoint.contract.errors import RequestError
from hardpoint.engine.validation import MAX_BAD_WORD_TOKENS, validate
from hardpoint.params import SamplingParams


@pytest.mark.parametrize("token", [-1, 100, 2**31, -(2**40)])
@pytest.mark.parametrize(
    ("field", "make"),
    [
        ("logit_bias", lambda t: {1: 1.0, t: 2.0}),
        ("allowed_token_ids", lambda t: [1, t]),
        ("bad_words_token_ids", lambda t: [[1], [2, t, 3]]),
        ("stop_token_ids", lambda t: [t]),
        ("logprob_token_ids", lambda t: [5, t]),
    ],
)
def test_ids_outside_the_vocabulary_are_refused(field: str, make: Any, token: int) -> None:
    with pytest.raises(RequestError, match=f"{field} holds the token id {token}.*vocabulary of 100.*0 to 99") as caught:
        validate(SamplingParams(**{field: make(token)}), 100)
    assert caught.value.field == field
    validate(SamplingParams(**{field: make(99)}), 100)


def test_ids_must_be_whole_numbers() -> None:
    with pytest.raises(RequestError, match=r"holds 1\.5; token ids are whole numbers"):
        validate(SamplingParams(stop_token_ids=[1.5]), 100)  # type: ignore[list-item]


@pytest.mark.parametrize("field", ["logprobs", "prompt_logprobs"])
def test_the_number_of_logprobs_is_bounded(field: str) -> None:
    validate(SamplingParams(**{field: 20}), 100, max_logprobs=20)
    validate(SamplingParams(**{field: -1}), 100, max_logprobs=100)
    validate(SamplingParams(**{field: -1}), 100, max_logprobs=-1)
    for asked, most in ((21, 20), (-1, 20), (101, -1)):
        with pytest.raises(RequestError, match=f"^{field} is {asked}") as caught:
            validate(SamplingParams(**{field: asked}), 100, max_logprobs=most)
        assert caught.value.field == field


def test_bad_words_have_tokens_but_not_too_many() -> None:
    with pytest.raises(RequestError, match="empty list"):
        validate(SamplingParams(bad_words_token_ids=[[1], []]), 100)
    words = [[1] * 64] * (MAX_BAD_WORD_TOKENS // 64)
    validate(SamplingParams(bad_words_token_ids=words), 100)
    with pytest.raises(RequestError, match=f"{MAX_BAD_WORD_TOKENS + 64} tokens together"):
        validate(SamplingParams(bad_words_token_ids=[*words, [1] * 64]), 100)


def test_masks_that_leave_nothing_are_refused() -> None:
    allowed = SamplingParams(allowed_token_ids=[3, 4], bad_words_token_ids=[[3]], min_tokens=2)
    validate(allowed, 100)
    validate(allowed.replace(min_tokens=0), 100, eos_token_ids=[4])
    with pytest.raises(RequestError, match=r"no token is left to sample.*min_tokens=2"):
        validate(allowed, 100, eos_token_ids=[4])
    with pytest.raises(RequestError, match="no token is left") as caught:
        validate(SamplingParams(bad_words_token_ids=[[token] for token in range(5)]), 5)
    assert caught.value.field == "bad_words"
    # A longer word forbids its last token only after its first ones.
    validate(SamplingParams(bad_words_token_ids=[[0], [1, 1], [2]]), 3)
