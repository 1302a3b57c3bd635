from __future__ import annotations

import pytest
from fake_engine import ANSWER

PATH = "/v1/completions"


def test_answers_a_text_prompt(client, engine):
    response = client.post(PATH, {"model": "fake", "prompt": "Hi", "max_tokens": 100})
    body = response.json()
    assert response.status_code == 200
    assert body["object"] == "text_completion"
    assert body["id"].startswith("cmpl-")
    assert body["model"] == "fake"
    assert body["choices"] == [{"index": 0, "text": ANSWER, "logprobs": None, "finish_reason": "stop"}]
    assert body["usage"] == {
        "prompt_tokens": 2,
        "completion_tokens": len(ANSWER),
        "total_tokens": 2 + len(ANSWER),
        "prompt_tokens_details": {"cached_tokens": 3},
    }
    assert engine.calls[0].params.output_kind == "final_only"


def test_sixteen_tokens_by_default_and_length_when_cut(client, engine):
    engine.answer = "x" * 40
    choice = client.post(PATH, {"prompt": "Hi"}).json()["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == ("x" * 16, "length")


def test_stream_says_the_same_as_the_whole_answer(client):
    body = {"prompt": "Hi", "n": 2, "max_tokens": 10, "logprobs": 2}
    whole = client.post(PATH, body).json()["choices"]
    chunks = client.events(PATH, body)
    for index in range(2):
        parts = [choice for chunk in chunks for choice in chunk["choices"] if choice["index"] == index]
        assert "".join(part["text"] for part in parts) == whole[index]["text"]
        assert parts[-1]["finish_reason"] == whole[index]["finish_reason"] == "length"
        assert all(part["finish_reason"] is None for part in parts[:-1])
        for column in ("tokens", "token_logprobs", "text_offset", "top_logprobs"):
            assert [value for part in parts for value in part["logprobs"][column]] == whole[index]["logprobs"][column]


def test_usage_of_a_stream_comes_last_and_once(client):
    options = {"include_usage": True}
    chunks = client.events(PATH, {"prompt": "Hi", "max_tokens": 3, "stream_options": options})
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == 3
    assert all("usage" not in chunk for chunk in chunks[:-1])
    options["continuous_usage_stats"] = True
    chunks = client.events(PATH, {"prompt": "Hi", "max_tokens": 3, "stream_options": options})
    assert [chunk["usage"]["completion_tokens"] for chunk in chunks] == [1, 2, 3, 3]


@pytest.mark.parametrize("prompt", [["a", "bc"], [[97], [98, 99]]])
@pytest.mark.parametrize("stream", [False, True])
def test_several_prompts_number_their_choices_in_order(client, engine, prompt, stream):
    body = {"prompt": prompt, "n": 2, "max_tokens": 2}
    if stream:
        choices = [choice for chunk in client.events(PATH, body) for choice in chunk["choices"]]
        texts = ["".join(c["text"] for c in choices if c["index"] == i) for i in range(4)]
    else:
        answer = client.post(PATH, body).json()
        texts = [choice["text"] for choice in answer["choices"]]
        assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
        assert answer["usage"]["prompt_tokens"] == 3
        assert answer["usage"]["completion_tokens"] == 8
    assert texts == [ANSWER[:2]] * 4
    assert len({call.options["request_id"] for call in engine.calls}) == 2


def test_one_list_of_ids_is_one_prompt(client, engine):
    client.post(PATH, {"prompt": [72, 105], "max_tokens": 1})
    assert [call.prompt.token_ids.tolist() for call in engine.calls] == [[72, 105]]


def test_start_tokens_are_added_unless_refused(client, engine):
    engine.adds_special_tokens = True
    for more in ({}, {"add_special_tokens": False}):
        client.post(PATH, {"prompt": "Hi", "max_tokens": 1, **more})
    assert [call.prompt.token_ids.tolist() for call in engine.calls] == [[1, 72, 105], [72, 105]]


@pytest.mark.parametrize("prompt", ["Hi", [72, 105]])
@pytest.mark.parametrize("stream", [False, True])
def test_echo_puts_prompt_and_its_logprobs_in_front(client, prompt, stream):
    body = {"prompt": prompt, "echo": True, "logprobs": 1, "max_tokens": 2}
    if stream:
        parts = [chunk["choices"][0] for chunk in client.events(PATH, body)]
        text = "".join(part["text"] for part in parts)
        logprobs = {k: [value for p in parts for value in p["logprobs"][k]] for k in parts[0]["logprobs"]}
    else:
        choice = client.post(PATH, body).json()["choices"][0]
        text, logprobs = choice["text"], choice["logprobs"]
    assert text == "Hi" + ANSWER[:2]
    assert logprobs["tokens"] == ["H", "i", *ANSWER[:2]]
    assert logprobs["token_logprobs"] == [None, -0.5, -0.5, -0.5]
    assert logprobs["text_offset"] == [0, 1, 2, 3]
    assert logprobs["top_logprobs"][0] is None
    # The most likely token, and the sampled one although it is only second.
    assert logprobs["top_logprobs"][1] == {"j": -0.25, "i": -0.5}


def test_every_sequence_of_a_stream_echoes_the_logprobs(client, engine):
    engine.staggered = True
    chunks = client.events(PATH, {"prompt": "Hi", "echo": True, "logprobs": 1, "max_tokens": 2, "n": 2})
    for index in range(2):
        parts = [choice for chunk in chunks for choice in chunk["choices"] if choice["index"] == index]
        assert "".join(part["text"] for part in parts) == "Hi" + ANSWER[:2]
        values = [value for part in parts for value in part["logprobs"]["token_logprobs"]]
        assert values == [None, -0.5, -0.5, -0.5]


def test_echo_without_output_scores_the_prompt(client, engine):
    body = {"prompt": "Hi", "echo": True, "logprobs": 1, "max_tokens": 0}
    answer = client.post(PATH, body).json()
    assert answer["choices"][0]["text"] == "Hi"
    assert answer["choices"][0]["logprobs"]["tokens"] == ["H", "i"]
    assert answer["usage"]["completion_tokens"] == 0
    assert engine.calls[0].params.max_tokens == 1


def test_minus_infinity_is_a_number_in_json(client):
    logprobs = client.post(PATH, {"prompt": "Hi", "logprobs": 3, "max_tokens": 1}).json()["choices"][0]["logprobs"]
    assert logprobs["top_logprobs"][0]["?"] == -9999.0


def test_tokens_can_be_told_as_ids(client):
    body = {
        "prompt": "Hi",
        "logprobs": 0,
        "max_tokens": 1,
        "return_tokens_as_token_ids": True,
        "return_token_ids": True,
    }
    choice = client.post(PATH, body).json()["choices"][0]
    assert choice["logprobs"]["tokens"] == [f"token_id:{ord('G')}"]
    assert choice["token_ids"] == [ord("G")]
    assert choice["prompt_token_ids"] == [72, 105]


def test_prompt_logprobs_are_those_of_vllm(client):
    choice = client.post(PATH, {"prompt": "Hi", "max_tokens": 1, "prompt_logprobs": 1}).json()["choices"][0]
    first, second = choice["prompt_logprobs"]
    assert first is None
    assert second[str(ord("i"))] == {"logprob": -0.5, "rank": 2, "decoded_token": "i"}


def test_every_sampling_field_reaches_the_engine(client, engine):
    sent = {
        "n": 2,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 5,
        "min_p": 0.1,
        "presence_penalty": 0.1,
        "frequency_penalty": 0.2,
        "repetition_penalty": 1.1,
        "seed": 7,
        "stop": ["END"],
        "stop_token_ids": [3],
        "ignore_eos": True,
        "max_tokens": 9,
        "min_tokens": 2,
        "skip_special_tokens": False,
        "spaces_between_special_tokens": False,
        "include_stop_str_in_output": True,
        "allowed_token_ids": [1, 2],
        "bad_words": ["no"],
        "logprob_token_ids": [4],
        "prompt_logprobs": 2,
    }
    body = {"prompt": "Hi", **sent, "logit_bias": {"17": -5}, "priority": 3, "cache_salt": "mine", "user": "u"}
    assert client.post(PATH, body).status_code == 200
    params, options = engine.calls[0].params, engine.calls[0].options
    assert {name: getattr(params, name) for name in sent} == sent
    assert params.logit_bias == {17: -5.0}
    assert (options["priority"], options["cache_salt"]) == (3, "mine")


def test_model_defaults_apply_where_the_request_is_silent(client, engine):
    engine.sampling_defaults = {"temperature": 0.6, "top_k": 20, "max_tokens": 5}
    client.post(PATH, {"prompt": "Hi", "top_k": 3})
    params = engine.calls[0].params
    assert (params.temperature, params.top_k, params.max_tokens) == (0.6, 3, 5)


@pytest.mark.parametrize(
    ("body", "param", "says"),
    [
        ({}, "prompt", "missing"),
        ({"prompt": []}, "prompt", "empty list"),
        ({"prompt": ["a", 1]}, "prompt", "mixes"),
        ({"prompt": ["a", [1]]}, "prompt", "mixes"),
        ({"prompt": 5}, "prompt", "Expected"),
        ({"prompt": "a", "suffix": "b"}, "suffix", "not supported"),
        ({"prompt": "a", "best_of": 2}, "best_of", "not supported"),
        ({"prompt": "a", "use_beam_search": True}, "use_beam_search", "LLM.beam_search"),
        ({"prompt": "a", "guided_json": {}}, "guided_json", "no grammar"),
        ({"prompt": "a", "response_format": {"type": "json_object"}}, "response_format", "no grammar"),
        ({"prompt": "a", "temperature": -1}, "temperature", "negative"),
        ({"prompt": "a", "temperature": "hot"}, "temperature", "Expected"),
        ({"prompt": "a", "max_tokens": 0}, "max_tokens", "at least 1"),
        ({"prompt": "a", "n": 0}, "n", "between 1"),
        ({"prompt": "a", "n": 10000}, "n", "--max-choices"),
        ({"prompt": ["a"] * 300}, "n", "--max-choices"),
        ({"prompt": "a", "logprobs": 21}, "logprobs", "--max-logprobs"),
        ({"prompt": "a", "logprobs": -1}, "logprobs", "--max-logprobs"),
        ({"prompt": "a", "prompt_logprobs": 999}, "prompt_logprobs", "--max-logprobs"),
        ({"prompt": "a", "logit_bias": {"x": 1}}, "logit_bias", "Expected"),
        ({"prompt": "a", "logit_bias": {"1": 101}}, "logit_bias", "between -100 and 100"),
        ({"prompt": "a", "stop": ""}, "stop", "empty"),
        ({"prompt": "a", "stream_options": {"include_usage": True}}, "stream_options", "stream=true"),
        ({"prompt": "a", "stream": True, "prompt_logprobs": 1}, "prompt_logprobs", "streamed"),
        ({"prompt": "a", "request_id": "a b"}, "request_id", "printable"),
        ({"prompt": "a", "cache_salt": ""}, "cache_salt", "empty"),
        ({"prompt": "a", "service_tier": "flex"}, "service_tier", "only"),
        ({"prompt": "a", "temprature": 1}, "temprature", "did you mean 'temperature'"),
    ],
)
def test_refuses_with_the_parameter_and_the_reason(client, engine, body, param, says):
    response = client.post(PATH, body)
    error = response.json()["error"]
    assert response.status_code == 400
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert says in error["message"]
    assert not engine.calls
