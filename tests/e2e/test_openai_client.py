"""What users of OpenAI's client see."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
from server_process import CONTEXT, MODEL, read_events, until

HELLO = [{"role": "user", "content": "Hello"}]


@pytest.fixture
def client(server):
    return server.client


def test_models(client):
    (card,) = client.models.list().data
    assert card.id == MODEL
    assert client.models.retrieve(MODEL).max_model_len == CONTEXT


def test_completion_and_usage(client):
    answer = client.completions.create(model=MODEL, prompt="The quick brown", max_tokens=12, temperature=0)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 12
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 12
    again = client.completions.create(model=MODEL, prompt="The quick brown", max_tokens=12, temperature=0)
    assert again.choices[0].text == answer.choices[0].text
    assert answer.system_fingerprint == again.system_fingerprint


def test_second_prompt_comes_from_the_cache(client):
    prompt = list(range(10, 90))
    for _ in range(2):
        answer = client.completions.create(model=MODEL, prompt=prompt, max_tokens=1)
    assert 0 < answer.usage.prompt_tokens_details.cached_tokens < 80


@pytest.mark.parametrize("n", [1, 3])
def test_chat_streams_what_it_answers(client, n):
    asked = {"model": MODEL, "messages": HELLO, "max_tokens": 40, "n": n, "seed": 1, "temperature": 1.0}
    asked |= {"logprobs": True, "top_logprobs": 2}
    whole = client.chat.completions.create(**asked)
    texts = [""] * n
    reasons = [None] * n
    tokens = [[] for _ in range(n)]
    usage = None
    for chunk in client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            reasons[choice.index] = choice.finish_reason or reasons[choice.index]
            tokens[choice.index] += choice.logprobs.content if choice.logprobs else []
    for choice, text, reason, told in zip(whole.choices, texts, reasons, tokens, strict=True):
        assert (text, reason) == (choice.message.content, choice.finish_reason)
        # The second request found its prompt in the cache: the same sums in another order.
        assert [_names(each) for each in told] == [_names(each) for each in choice.logprobs.content]
        assert [each.logprob for each in told] == pytest.approx(
            [each.logprob for each in choice.logprobs.content], abs=1e-3
        )
        assert all(len(each.top_logprobs) == 2 for each in told)
    assert usage.completion_tokens == whole.usage.completion_tokens
    if n > 1:
        assert len(set(texts)) > 1


def _names(entry):
    return entry.token, entry.bytes, [other.token for other in entry.top_logprobs]


def test_stop_string_is_not_part_of_the_text(client):
    text = client.completions.create(model=MODEL, prompt="Hello", max_tokens=60, temperature=0).choices[0].text
    stop = text[10:14]
    cut = client.completions.create(model=MODEL, prompt="Hello", max_tokens=60, temperature=0, stop=[stop]).choices[0]
    assert (cut.text, cut.finish_reason) == (text[: text.index(stop)], "stop")
    assert cut.stop_reason == stop
    kept = client.completions.create(
        model=MODEL,
        prompt="Hello",
        max_tokens=60,
        temperature=0,
        stop=[stop],
        extra_body={"include_stop_str_in_output": True},
    )
    assert kept.choices[0].text == text[: text.index(stop)] + stop


def test_echo_scores_a_prompt(client):
    scored = client.completions.create(model=MODEL, prompt="Hello world", max_tokens=0, echo=True, logprobs=1)
    logprobs = scored.choices[0].logprobs
    assert "".join(logprobs.tokens) == scored.choices[0].text == "Hello world"
    assert logprobs.token_logprobs[0] is None
    assert all(value < 0 for value in logprobs.token_logprobs[1:])
    streamed = client.completions.create(
        model=MODEL, prompt="Hello world", max_tokens=2, echo=True, logprobs=1, n=2, stream=True, temperature=0
    )
    told = [[], []]
    for choice in (choice for chunk in streamed for choice in chunk.choices):
        told[choice.index] += choice.logprobs.token_logprobs if choice.logprobs else []
    assert told[0] == pytest.approx(told[1], abs=1e-3)
    assert told[0][1:-2] == pytest.approx(logprobs.token_logprobs[1:], abs=1e-3)


def test_errors_are_the_clients_exceptions(server, client):
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="other", messages=HELLO)
    assert missing.value.body["code"] == "model_not_found"
    with pytest.raises(openai.BadRequestError) as wrong:
        client.chat.completions.create(model=MODEL, messages=HELLO, temperature=-1)
    assert wrong.value.body["param"] == "temperature"
    with pytest.raises(openai.BadRequestError) as long:
        client.completions.create(model=MODEL, prompt=[5] * (CONTEXT + 1))
    assert long.value.body["code"] == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError) as outside:
        client.completions.create(model=MODEL, prompt=[5, 10**6])
    assert "1000000" in outside.value.body["message"]
    with pytest.raises(openai.AuthenticationError) as stranger:
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="wrong", max_retries=0).models.list()
    assert stranger.value.body["code"] == "invalid_api_key"
    assert server.http.get("/health").status_code == 200


def test_raw_stream(server):
    body = {"model": MODEL, "messages": HELLO, "max_tokens": 5, "stream": True, "ignore_eos": True}
    response = server.http.post("/v1/chat/completions", json=body)
    assert response.headers["content-type"].startswith("text/event-stream")
    chunks = read_events(response.text)
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"
    assert len({chunk["id"] for chunk in chunks}) == 1


def test_many_at_once_answer_as_alone(client):
    prompts = [f"Hello {number}" for number in range(24)]

    def ask(prompt):
        return client.completions.create(model=MODEL, prompt=prompt, max_tokens=24, temperature=0).choices[0].text

    alone = [ask(prompt) for prompt in prompts[:4]]
    with ThreadPoolExecutor(len(prompts)) as pool:
        together = list(pool.map(ask, prompts))
    assert together[:4] == alone
    assert all(together)


def test_a_client_that_leaves_a_stream_frees_its_request(server):
    before = server.metric("request_success_total")
    body = {"model": MODEL, "prompt": "Hello", "max_tokens": CONTEXT, "ignore_eos": True, "stream": True}
    with server.http as http, http.stream("POST", "/v1/completions", json=body) as response:
        pieces = response.iter_bytes()
        next(pieces)
        assert until(lambda: server.metric("num_requests_running") == 1)
        assert server.metric("kv_cache_usage_perc") > 0
    _assert_freed(server, before)


def test_a_client_that_leaves_before_the_answer_frees_its_request(server, client):
    before = server.metric("request_success_total")
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=0.5).completions.create(
            model=MODEL, prompt="Hi", max_tokens=CONTEXT, extra_body={"ignore_eos": True}
        )
    _assert_freed(server, before)


def _assert_freed(server, before):
    assert until(lambda: server.metric("num_requests_running") == 0)
    assert server.metric("kv_cache_usage_perc") == 0
    assert server.metric("request_success_total") == before + 1
    assert 'finished_reason="abort"' in server.http.get("/metrics").text
