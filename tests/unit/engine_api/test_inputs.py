"""Requests at the door: what is accepted, what is completed, what is refused and how it says so."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from hardpoint.contract.errors import ContextLengthError, RequestError
from hardpoint.engine.inputs import InputProcessor, bad_word_ids
from hardpoint.params import SamplingParams, StructuredOutputsParams
from hardpoint.text.model_text import ModelText
from scripted_engine import ScriptedClient
from tiny_tokenizers import tiny_tokenizer

TOKENIZER = tiny_tokenizer()
CLIENT = ScriptedClient(lambda request, index: [1], vocab_size=len(TOKENIZER), max_model_len=64)


@pytest.fixture(scope="module")
def inputs() -> Iterator[InputProcessor]:
    text = ModelText.of(
        TOKENIZER, config={"eos_token_id": 5}, generation_config={"eos_token_id": [6, 5], "temperature": 0.5}
    )
    yield InputProcessor(text, CLIENT.info)
    text.close()


@pytest.fixture(scope="module")
def without_tokenizer() -> InputProcessor:
    return InputProcessor(ModelText.of(None, config={"eos_token_id": 5}), CLIENT.info)


def prepare(inputs: InputProcessor, prompt: Any = "Hello", **params: Any) -> Any:
    return inputs.prepare(inputs.tokenize(prompt), SamplingParams(**params), request_id="r").request


@pytest.mark.parametrize(
    "prompt",
    [
        "Hello world",
        {"prompt": "Hello world"},
        {"prompt_token_ids": TOKENIZER.encode("Hello world")},
        TOKENIZER.encode("Hello world"),
        tuple(TOKENIZER.encode("Hello world")),
        np.array(TOKENIZER.encode("Hello world"), np.int64),
        {"prompt_token_ids": TOKENIZER.encode("Hello world"), "prompt": "Hello world"},
    ],
)
def test_prompts_come_in_many_forms(inputs: InputProcessor, prompt: Any) -> None:
    tokens = inputs.tokenize(prompt)
    assert tokens.token_ids.dtype == np.int32
    assert tokens.token_ids.tolist() == TOKENIZER.encode("Hello world")
    has_text = isinstance(prompt, str) or (isinstance(prompt, dict) and "prompt" in prompt)
    assert tokens.text == ("Hello world" if has_text else None)


def test_a_conversation_is_rendered(inputs: InputProcessor) -> None:
    tokens = inputs.tokenize([{"role": "user", "content": "Hi"}])
    assert tokens.text == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert tokens.token_ids.tolist() == TOKENIZER.encode(tokens.text)


def test_many_prompts_are_tokenized_together_and_keep_their_order(inputs: InputProcessor) -> None:
    prompts = ["one", [1, 2, 3], "two", {"prompt": "three"}]
    found = [tokens.token_ids.tolist() for tokens in inputs.tokenize_all(prompts)]
    assert found == [TOKENIZER.encode("one"), [1, 2, 3], TOKENIZER.encode("two"), TOKENIZER.encode("three")]


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        ("", "prompt is empty"),
        ([], "prompt is empty"),
        ({}, "neither 'prompt' nor 'prompt_token_ids'"),
        ({"prompt": 5}, "'prompt' is a int"),
        ({"prompt": "x", "multi_modal_data": {}}, "multi_modal_data cannot be served"),
        ([0, -1], "token id -1 at position 1 .* ids are 0 to"),
        ([0, 1, 10**6], "token id 1000000 at position 2"),
        ([10**30], "must be text or one list of whole numbers"),
        ([1.5, 2.0], "whole numbers"),
        ([True, False], "whole numbers"),
        (["a", "b"], "whole numbers"),
        ([[1], [2, 3]], "no list of numbers"),
        ([1] * 64, "has 64 tokens; .* context of 64; shorten it or raise --max-model-len"),
        ("x" * 100_000, "has 100000 characters"),
        ("\ud800", "half of a surrogate pair"),
        (7, "must be text or one list"),
    ],
)
def test_bad_prompts_are_refused(inputs: InputProcessor, prompt: Any, reason: str) -> None:
    with pytest.raises(RequestError, match=reason):
        inputs.tokenize(prompt)


def test_too_long_is_an_error_of_its_own(inputs: InputProcessor) -> None:
    with pytest.raises(ContextLengthError):
        inputs.tokenize([1] * 64)
    assert len(inputs.tokenize([1] * 63).token_ids) == 63


@pytest.mark.parametrize(("asked", "given"), [(None, 54), (16, 16), (54, 54), (55, 54), (10_000, 54)])
def test_max_tokens_fills_the_context_at_most(inputs: InputProcessor, asked: int | None, given: int) -> None:
    assert prepare(inputs, [1] * 10, max_tokens=asked).params.max_tokens == given


def test_min_tokens_beyond_the_context_are_refused(inputs: InputProcessor) -> None:
    with pytest.raises(ContextLengthError, match="min_tokens is 60; after a prompt of 10 tokens only 54 fit"):
        prepare(inputs, [1] * 10, max_tokens=100, min_tokens=60)


def test_end_tokens_come_from_everywhere_once(inputs: InputProcessor) -> None:
    assert prepare(inputs).eos_token_ids == (TOKENIZER.eos_token_id, 6, 5)
    assert prepare(inputs, ignore_eos=True).eos_token_ids == ()


def test_handles_are_never_used_twice(inputs: InputProcessor) -> None:
    handles = [handle for _ in range(3) for handle in prepare(inputs, n=4).handles]
    assert len(set(handles)) == 12


def test_cache_salt_comes_from_prompt_or_caller(inputs: InputProcessor) -> None:
    tokens = inputs.tokenize({"prompt": "x", "cache_salt": "a"})
    assert inputs.prepare(tokens, SamplingParams(), request_id="r").request.cache_salt == "a"
    assert inputs.prepare(tokens, SamplingParams(), request_id="r", cache_salt="b").request.cache_salt == "b"
    with pytest.raises(RequestError, match="cache_salt is 5"):
        inputs.prepare(tokens, SamplingParams(), request_id="r", cache_salt=5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ({"stop_token_ids": [10**6]}, "stop_token_ids holds the token id 1000000"),
        ({"logit_bias": {10**6: 1.0}}, "logit_bias"),
        ({"allowed_token_ids": [-1]}, "allowed_token_ids"),
        ({"bad_words_token_ids": [[1, 10**6]]}, "bad_words_token_ids"),
        ({"bad_words": [""]}, "has no tokens"),
        ({"structured_outputs": StructuredOutputsParams(regex="a+")}, "no grammar plugin"),
    ],
)
def test_bad_parameters_are_refused(inputs: InputProcessor, params: dict[str, Any], reason: str) -> None:
    with pytest.raises(RequestError, match=reason):
        prepare(inputs, **params)


def test_priority_must_be_a_number(inputs: InputProcessor) -> None:
    tokens = inputs.tokenize("x")
    assert inputs.prepare(tokens, SamplingParams(), request_id="r", priority=-3).request.priority == -3
    with pytest.raises(RequestError, match="priority is 'high'"):
        inputs.prepare(tokens, SamplingParams(), request_id="r", priority="high")  # type: ignore[arg-type]


def test_bad_words_are_forbidden_at_the_start_and_inside_a_text(inputs: InputProcessor) -> None:
    found = prepare(inputs, bad_words=["Paris", " Hello"]).params.bad_words_token_ids
    assert found == bad_word_ids(TOKENIZER, ["Paris", "Hello"])
    assert TOKENIZER.encode("Paris") in found
    for word in ("Paris", "Hello"):
        bare, spaced = TOKENIZER.encode(word), TOKENIZER.encode(" " + word)
        assert bare in found
        assert (spaced in found) == (spaced[0] != bare[0] and len(spaced) == len(bare))


@pytest.mark.parametrize(
    ("prompt", "params"),
    [("text", {}), ([1], {"stop": "x"}), ([1], {"bad_words": ["x"]}), ([{"role": "user", "content": "x"}], {})],
)
def test_what_needs_a_tokenizer_says_so(without_tokenizer: InputProcessor, prompt: Any, params: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match="needs a tokenizer, and skip_tokenizer_init is set"):
        prepare(without_tokenizer, prompt, **params)


def test_ids_need_no_tokenizer(without_tokenizer: InputProcessor) -> None:
    request = prepare(without_tokenizer, [1, 2])
    assert request.token_ids.tolist() == [1, 2]
    assert request.eos_token_ids == (5,)


def test_recommendations_become_defaults() -> None:
    text = ModelText.of(
        None, generation_config={"temperature": 0.5, "top_k": 3, "max_new_tokens": 9, "do_sample": True}
    )
    assert text.sampling_defaults == {"temperature": 0.5, "top_k": 3, "max_tokens": 9}
