"""What every request meets before and after its endpoint: keys, limits, names, errors, metrics, disconnects."""

from __future__ import annotations

import asyncio
import json
from importlib.metadata import EntryPoint

import msgspec
import pytest
from app_client import Client
from fake_engine import FakeEngine

from hardpoint.config.server import ServerConfig
from hardpoint.contract.errors import (
    ConfigError,
    ContextLengthError,
    EngineDeadError,
    PluginError,
    QueueFullError,
    RequestError,
)
from hardpoint.plugins import Catalogue
from hardpoint_server.app import create_app, fingerprint

CHAT = "/v1/chat/completions"
HELLO = {"messages": [{"role": "user", "content": "Hello"}]}


def test_models_are_listed_and_found(serve, engine):
    names = ("good", "org/better")
    engine.info = msgspec.structs.replace(
        engine.info, config={**engine.info.config, "model": {**engine.info.config["model"], "served_model_name": names}}
    )
    client = serve()
    cards = client.get("/v1/models").json()
    assert cards["object"] == "list"
    assert [card["id"] for card in cards["data"]] == list(names)
    assert cards["data"][0] | {"created": 0} == {
        "id": "good",
        "object": "model",
        "created": 0,
        "owned_by": "hardpoint",
        "root": "fake",
        "parent": None,
        "max_model_len": 128,
        "vocab_size": 70000,
    }
    assert client.get("/v1/models/org/better").json()["id"] == "org/better"
    assert client.post(CHAT, {**HELLO, "model": "org/better"}).json()["model"] == "org/better"
    assert client.post(CHAT, HELLO).json()["model"] == "good"


def test_unknown_model_is_404_with_the_names(client):
    for response in (client.get("/v1/models/other"), client.post(CHAT, {**HELLO, "model": "other"})):
        error = response.json()["error"]
        assert (response.status_code, error["param"], error["code"]) == (404, "model", "model_not_found")
        assert "fake" in error["message"]


@pytest.mark.parametrize(
    ("raised", "status", "code", "param"),
    [
        (RequestError("bad seed", field="seed"), 400, None, "seed"),
        (ContextLengthError("too long", field="prompt"), 400, "context_length_exceeded", "prompt"),
        (QueueFullError("full"), 429, "queue_full", None),
        (EngineDeadError("killed by signal 9"), 503, "engine_dead", None),
        (PluginError("sequence failed"), 500, "request_failed", None),
        (ZeroDivisionError("secret"), 500, "internal_error", None),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_engine_errors_become_statuses(client, engine, raised, status, code, param, stream):
    engine.error = raised
    response = client.post(CHAT, {**HELLO, "stream": stream})
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (status, code, param)
    assert ("retry-after" in response.headers) == (status == 429)
    if isinstance(raised, ZeroDivisionError):
        assert "secret" not in response.text
        assert "Traceback" not in response.text
        assert response.headers["x-request-id"] in error["message"]
    else:
        assert str(raised) in error["message"]


@pytest.mark.parametrize("raised", [EngineDeadError("killed"), ZeroDivisionError("secret")])
def test_an_error_amid_a_stream_is_its_last_event(client, engine, raised):
    engine.error, engine.fail_at = raised, 3
    response = client.post(CHAT, {**HELLO, "stream": True})
    *chunks, last, rest = response.text.split("\n\n")
    error = json.loads(last.removeprefix("data: "))["error"]
    assert response.status_code == 200
    assert rest == ""
    assert "[DONE]" not in response.text
    assert "secret" not in response.text
    assert error["code"] == ("engine_dead" if isinstance(raised, EngineDeadError) else "internal_error")
    assert len([c for c in chunks if '"content"' in c]) == 4  # the role, three tokens


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [("GET", "/nothing", 404, "not_found"), ("DELETE", CHAT, 405, "method_not_allowed")],
)
def test_unknown_paths_have_the_error_shape(client, method, path, status, code):
    response = client.request(method, path)
    assert response.status_code == status
    assert response.json()["error"]["code"] == code


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"x"', b"\xff\xfe", b'{"messages": NaN}'])
def test_bodies_that_are_no_json_object(client, body):
    response = client.request("POST", CHAT, content=body)
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"


def test_health_tells_why_the_engine_ended(client, engine):
    assert client.get("/health").status_code == 200
    engine.dead = "engine process was killed by signal 9"
    response = client.get("/health")
    assert response.status_code == 503
    assert response.json() == {"status": "dead", "cause": engine.dead}


def test_keys_guard_everything_but_health(serve, engine, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("third\n")
    client = serve(api_key=("first", "second"), api_key_file=str(keys))
    for method, path in [
        ("GET", "/v1/models"),
        ("POST", CHAT),
        ("POST", "/v1/completions"),
        ("GET", "/metrics"),
        ("GET", "/openapi.json"),
        ("GET", "/health/"),
        ("GET", "/nothing"),
    ]:
        for headers in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": "Basic first"},
            {"Authorization": "first"},
        ):
            response = client.request(method, path, headers=headers)
            assert (response.status_code, response.json()["error"]["code"]) == (401, "invalid_api_key")
    assert client.get("/health").status_code == 200
    for key in ("first", "second", "third"):
        assert client.get("/v1/models", headers={"Authorization": f"Bearer {key}"}).status_code == 200
    assert not engine.calls
    assert "first" not in repr(ServerConfig(api_key=("first",)))


def test_large_bodies_are_refused_announced_or_not(serve, engine):
    client = serve(max_body_size=1000)
    large = {"messages": [{"role": "user", "content": "x" * 2000}]}
    response = client.post(CHAT, large)
    assert response.status_code == 413
    assert "--max-body-size" in response.json()["error"]["message"]

    async def pieces():
        for piece in msgspec.json.encode(large).split(b"x"):
            yield piece + b"x"

    assert client.request("POST", CHAT, content=pieces()).status_code == 413
    assert client.post(CHAT, HELLO).status_code == 200
    assert len(engine.calls) == 1


def test_request_ids_are_kept_or_made(client):
    assert client.get("/health", headers={"X-Request-Id": "mine-1"}).headers["x-request-id"] == "mine-1"
    made = {client.get("/health", headers=headers).headers["x-request-id"] for headers in ({}, {"X-Request-Id": "a b"})}
    assert len(made) == 2
    assert all(len(each) == 32 for each in made)


def test_cors_is_off_unless_asked_for(client, serve):
    headers = {"Origin": "http://page", "Access-Control-Request-Method": "POST"}
    assert "access-control-allow-origin" not in client.get("/health", headers=headers).headers
    open_to_one = serve(allowed_origins=("http://page",), api_key=("k",))
    assert open_to_one.request("OPTIONS", CHAT, headers=headers).status_code == 200
    assert open_to_one.get("/health", headers=headers).headers["access-control-allow-origin"] == "http://page"
    assert "access-control-allow-origin" not in open_to_one.get("/health", headers={"Origin": "http://other"}).headers


def test_metrics_count_what_happened(client, engine):
    client.events(CHAT, {**HELLO, "max_tokens": 4})
    client.post("/v1/completions", {"prompt": "Hi", "n": 2, "max_tokens": 3})
    engine.error = QueueFullError("full")
    client.post(CHAT, HELLO)
    client.get("/never/seen")
    lines = dict(line.rsplit(" ", 1) for line in client.get("/metrics").text.splitlines() if not line.startswith("#"))
    labels = 'engine="0",model_name="fake"'

    def value(name: str, **more: str) -> float:
        pairs = ",".join(sorted([*labels.split(","), *(f'{k}="{v}"' for k, v in more.items())]))
        found = {
            ",".join(sorted(key.split("{")[1][:-1].split(","))): v
            for key, v in lines.items()
            if key.startswith(name + "{")
        }
        return float(found[pairs])

    assert value("hardpoint:num_requests_running") == 2
    assert value("hardpoint:num_requests_waiting") == 1
    assert value("hardpoint:kv_cache_usage_perc") == 0.4
    assert value("hardpoint:generation_tokens_total") == 7
    assert value("hardpoint:request_success_total", finished_reason="length") == 3
    assert value("hardpoint:request_failure_total", error="QueueFullError") == 1
    assert value("hardpoint:prompt_tokens_cached_total") == 6
    assert value("hardpoint:time_to_first_token_seconds_count") == 2
    assert value("hardpoint:inter_token_latency_seconds_count") == 3
    assert value("hardpoint:e2e_request_latency_seconds_count") == 2
    assert value("hardpoint:request_generation_tokens_sum") == 4 + 6
    assert value("hardpoint:request_prompt_tokens_sum") == len("<user>Hello") + 2
    assert value("hardpoint:request_params_n_sum") == 4
    assert lines['hardpoint:http_requests_total{method="POST",route="/v1/chat/completions",status="429"}'] == "1.0"
    assert lines['hardpoint:http_requests_total{method="GET",route="none",status="404"}'] == "1.0"


def test_fingerprint_follows_the_configuration(engine):
    config = engine.info.config
    assert fingerprint(config) == fingerprint(json.loads(json.dumps(config)))
    assert fingerprint(config) != fingerprint({**config, "cache": {**config["cache"], "block_size": 32}})


def _routes(**targets):
    return Catalogue(entry_points=[EntryPoint(name, target, "hardpoint.routes") for name, target in targets.items()])


def test_two_route_sets_must_not_claim_one_path(engine):
    catalogue = _routes(health="hardpoint_server.descriptors:HEALTH", clash="hello_routes:CLASH")
    with pytest.raises(PluginError, match=r"'clash' and 'health' both offer GET /health.*--routes"):
        create_app(engine, ServerConfig(), catalogue)
    create_app(engine, ServerConfig(routes=("health",)), catalogue)


def test_route_sets_of_others_get_limits_metrics_and_errors(engine):
    catalogue = _routes(metrics="hardpoint_server.descriptors:METRICS", hello="hello_routes:DESCRIPTOR")
    client = Client(create_app(engine, ServerConfig(api_key=("k",)), catalogue))
    headers = {"Authorization": "Bearer k"}
    assert client.post("/hello?name=Ada", {}).status_code == 401
    assert client.post("/hello?name=Ada", {}, headers=headers).json() == {"text": "Grü"}
    wrong = client.post("/hello?name=Ada&words=many", {}, headers=headers)
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "words")
    engine.error = QueueFullError("full")
    assert client.post("/hello?name=Ada", {}, headers=headers).status_code == 429
    metrics = client.get("/metrics", headers=headers).text
    assert 'hardpoint:http_requests_total{method="POST",route="/hello",status="429"} 1.0' in metrics
    assert 'hardpoint:request_success_total{engine="0",finished_reason="length",model_name="fake"} 1.0' in metrics


def test_only_the_named_route_sets_are_offered(serve):
    client = serve(routes=("health",))
    assert client.get("/health").status_code == 200
    assert client.get("/v1/models").status_code == 404


@pytest.mark.parametrize(
    "settings",
    [
        {"port": 70000},
        {"shutdown_timeout": -1.0},
        {"ssl_keyfile": "k"},
        {"api_key": ("",)},
        {"max_choices": 0},
    ],
)
def test_settings_that_cannot_be(settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        ServerConfig(**settings)


def _disconnecting(app, body, after):
    """Run one request whose client goes once ``after(events sent)`` holds; return what was sent."""

    async def run():
        sent = []
        gone = asyncio.Event()
        messages = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]

        async def receive():
            if messages:
                return messages.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            sent.append(message)
            if after(sent):
                gone.set()

        if after(sent):
            asyncio.get_running_loop().call_later(0.05, gone.set)
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "path": CHAT,
            "raw_path": CHAT.encode(),
            "root_path": "",
            "scheme": "http",
            "query_string": b"",
            "headers": [(b"content-type", b"application/json")],
            "client": ("test", 1),
            "server": ("test", 80),
        }
        await asyncio.wait_for(app(scope, receive, send), 5)
        return sent

    return asyncio.run(run())


def test_a_client_that_leaves_amid_a_stream_aborts_its_request():
    engine = FakeEngine(answer="x" * 10000, pause=0.001)
    app = create_app(engine, ServerConfig(), Catalogue())
    sent = _disconnecting(app, {**HELLO, "stream": True}, after=lambda sent: len(sent) >= 4)
    assert engine.calls[0].aborted
    assert len(sent) < 100
    assert sent[-1]["type"] == "http.response.body"


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_before_the_answer_aborts_its_request(stream):
    engine = FakeEngine(answer="x" * 10, pause=30)
    app = create_app(engine, ServerConfig(), Catalogue())
    assert _disconnecting(app, {**HELLO, "stream": stream}, after=lambda sent: True) == []
    assert engine.calls[0].aborted


def test_one_failing_prompt_aborts_the_others(client, engine):
    engine.answer, engine.pause = "x" * 500, 0.01
    engine.error, engine.fails = RequestError("bad", field="prompt"), lambda prompt: prompt.text == "bad"
    response = client.post("/v1/completions", {"prompt": ["good", "bad", "good"], "max_tokens": 500})
    assert response.status_code == 400
    assert len(engine.calls) == 3
    assert all(call.aborted for call in engine.calls)
