from __future__ import annotations

import json

import pytest
from fake_engine import ANSWER

PATH = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "Hello"}]


def test_answers_a_conversation(client, engine):
    response = client.post(PATH, {"model": "fake", "messages": HELLO})
    body = response.json()
    assert body["object"] == "chat.completion"
    assert body["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": ANSWER, "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert body["usage"]["prompt_tokens"] == len("<user>Hello")
    assert body["usage"]["prompt_tokens_details"] == {"cached_tokens": 3}
    assert body["system_fingerprint"].startswith("hp_")
    # Without max_tokens an answer may be as long as the context.
    assert engine.calls[0].params.max_tokens is None


def test_stream_begins_with_the_role_and_says_the_same(client):
    body = {"messages": HELLO, "n": 2, "logprobs": True, "top_logprobs": 2}
    whole = client.post(PATH, body).json()
    chunks = client.events(PATH, body)
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({(chunk["id"], chunk["created"], chunk["system_fingerprint"]) for chunk in chunks}) == 1
    for index in range(2):
        parts = [choice for chunk in chunks for choice in chunk["choices"] if choice["index"] == index]
        assert parts[0]["delta"] == {"role": "assistant", "content": ""}
        assert "".join(part["delta"].get("content") or "" for part in parts) == ANSWER
        assert [part["finish_reason"] for part in parts[:-1]] == [None] * (len(parts) - 1)
        assert parts[-1]["finish_reason"] == "stop"
        told = [entry for part in parts if part["logprobs"] for entry in part["logprobs"]["content"]]
        assert told == whole["choices"][index]["logprobs"]["content"]


def test_usage_of_a_stream(client):
    chunks = client.events(PATH, {"messages": HELLO, "max_tokens": 4, "stream_options": {"include_usage": True}})
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == 4
    assert chunks[-1]["usage"]["prompt_tokens_details"]["cached_tokens"] == 3


def test_logprobs_hold_text_and_bytes(client):
    body = {"messages": HELLO, "logprobs": True, "top_logprobs": 1, "max_tokens": 3}
    content = client.post(PATH, body).json()["choices"][0]["logprobs"]["content"]
    assert [entry["token"] for entry in content] == list("Grü")
    assert content[2]["bytes"] == list("ü".encode()[:1])
    assert content[0]["logprob"] == -0.5
    assert content[0]["top_logprobs"] == [{"token": "H", "logprob": -0.25, "bytes": [72]}]


def test_max_completion_tokens_wins(client, engine):
    client.post(PATH, {"messages": HELLO, "max_tokens": 9, "max_completion_tokens": 4})
    assert engine.calls[0].params.max_tokens == 4


def test_what_the_template_gets(client, engine):
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {}}}]
    messages = [
        {"role": "system", "content": [{"type": "text", "text": "Be"}, {"type": "text", "text": "brief."}]},
        {"role": "user", "content": "Weather?", "name": None},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Bonn"}'}}
            ],
        },
        {"role": "tool", "tool_call_id": "1", "content": "Rain"},
    ]
    body = {"messages": messages, "tools": tools, "tool_choice": "auto", "chat_template_kwargs": {"thinking": False}}
    body |= {"reasoning_effort": "low", "documents": [{"text": "x"}]}
    assert client.post(PATH, body).status_code == 200
    given = engine.rendered[0]
    assert given["messages"][0]["content"] == "Be\nbrief."
    assert "name" not in given["messages"][1]
    assert given["messages"][2]["tool_calls"][0]["function"]["arguments"] == {"city": "Bonn"}
    assert given["tools"] == tools
    assert given["add_generation_prompt"] is True
    assert given["documents"] == [{"text": "x"}]
    assert given["chat_template_kwargs"] == {"thinking": False, "reasoning_effort": "low"}


def test_tool_choice_none_hides_the_tools(client, engine):
    tools = [{"type": "function", "function": {"name": "weather"}}]
    client.post(PATH, {"messages": HELLO, "tools": tools, "tool_choice": "none"})
    assert engine.rendered[0]["tools"] is None


@pytest.mark.parametrize("stream", [False, True])
def test_continuing_and_echoing_the_last_message(client, engine, stream):
    messages = [*HELLO, {"role": "assistant", "content": "Once "}]
    body = {"messages": messages, "continue_final_message": True, "echo": True}
    if stream:
        chunks = client.events(PATH, body)
        text = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)
    else:
        text = client.post(PATH, body).json()["choices"][0]["message"]["content"]
    assert text == "Once " + ANSWER
    assert engine.rendered[0]["add_generation_prompt"] is False
    assert engine.rendered[0]["continue_final_message"] is True


def test_request_template_needs_the_servers_consent(client, serve, engine):
    body = {"messages": HELLO, "chat_template": "{{ messages }}"}
    error = client.post(PATH, body).json()["error"]
    assert error["param"] == "chat_template"
    assert "--trust-request-chat-template" in error["message"]
    assert serve(trust_request_chat_template=True).post(PATH, body).status_code == 200
    assert engine.rendered[0]["chat_template"] == "{{ messages }}"


def _message(**fields):
    return {"messages": [{"role": "user", **fields}]}


CALL = {"id": "1", "function": {"name": "f", "arguments": "{broken"}}


@pytest.mark.parametrize(
    ("body", "param", "says"),
    [
        ({}, "messages", "missing"),
        ({"messages": []}, "messages", "empty"),
        ({"messages": [{"content": "x"}]}, "messages", "messages[0] has no role"),
        ({"messages": "hello"}, "messages", "Expected"),
        (_message(content=5), "messages", "neither text nor a list"),
        (_message(content=[{"type": "image_url", "image_url": {"url": "x"}}]), "messages", "'image_url'"),
        (_message(content=[{"type": "text"}]), "messages", "without text"),
        (_message(tool_calls=[CALL]), "messages", "not JSON"),
        (_message(tool_calls=[{"id": "1"}]), "messages", "without function.name"),
        ({"messages": HELLO, "top_logprobs": 2}, "top_logprobs", "logprobs=true"),
        ({"messages": HELLO, "logprobs": True, "top_logprobs": 21}, "logprobs", "--max-logprobs"),
        ({"messages": HELLO, "tools": [{"type": "function"}]}, "tools", "tools[0]"),
        ({"messages": HELLO, "tool_choice": "required"}, "tool_choice", "no grammar"),
        (
            {"messages": HELLO, "tool_choice": {"type": "function", "function": {"name": "f"}}},
            "tool_choice",
            "no grammar",
        ),
        ({"messages": HELLO, "tool_choice": "auto"}, "tool_choice", "no tools"),
        ({"messages": HELLO, "tool_choice": "maybe"}, "tool_choice", "must be"),
        ({"messages": HELLO, "response_format": {"type": "json_schema"}}, "response_format", "no grammar"),
        ({"messages": HELLO, "functions": []}, "functions", "use tools"),
        ({"messages": HELLO, "modalities": ["text", "audio"]}, "modalities", "only text"),
        ({"messages": HELLO, "store": True}, "store", "keeps no"),
        ({"messages": HELLO, "chat_template_kwargs": {"tools": []}}, "chat_template_kwargs", "must not set tools"),
        (
            {"messages": HELLO, "continue_final_message": True, "add_generation_prompt": True},
            "continue_final_message",
            "exclude",
        ),
    ],
)
def test_refuses_with_the_parameter_and_the_reason(client, engine, body, param, says):
    for stream in (False, True):
        response = client.post(PATH, {**body, "stream": stream})
        error = response.json()["error"]
        assert (response.status_code, error["param"]) == (400, param)
        assert says in error["message"]
    assert not engine.calls


def test_harmless_parameters_are_accepted(client):
    body = {
        "messages": HELLO,
        "user": "u",
        "safety_identifier": "s",
        "metadata": {"a": "b"},
        "store": False,
        "parallel_tool_calls": True,
        "prediction": {"type": "content", "content": "x"},
        "prompt_cache_key": "k",
        "service_tier": "auto",
        "response_format": {"type": "text"},
        "modalities": ["text"],
        "stop": None,
        "tools": None,
    }
    assert client.post(PATH, body).status_code == 200


def test_tool_text_stays_in_the_content(client, engine):
    engine.answer = '<tool_call>{"name": "f"}</tool_call>'
    tools = [{"type": "function", "function": {"name": "f"}}]
    message = client.post(PATH, {"messages": HELLO, "tools": tools}).json()["choices"][0]["message"]
    assert message["content"] == engine.answer
    assert json.loads(message["content"][11:-12]) == {"name": "f"}
