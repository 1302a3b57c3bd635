from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import dataclass

import numpy as np
import pytest
import uvicorn
from click.testing import CliRunner
from fake_engine import FakeEngine

from hardpoint.cli import load_client
from hardpoint.cli.bench_serve import report, serve, table
from hardpoint.cli.load_client import Answer, arrivals, run_load
from hardpoint.cli.workload import Load, random_loads
from hardpoint.config.server import ServerConfig
from hardpoint.contract.errors import ConfigError
from hardpoint.plugins import Catalogue
from hardpoint_server.app import create_app


def test_prompts_are_reproducible_and_of_the_asked_lengths():
    loads = random_loads(200, 100, 20, 5000, ratio=0.5, seed=3)
    assert loads == random_loads(200, 100, 20, 5000, ratio=0.5, seed=3)
    assert loads != random_loads(200, 100, 20, 5000, ratio=0.5, seed=4)
    assert {50, 150} <= {len(load.prompt) for load in loads} | {50, 150}
    assert min(len(load.prompt) for load in loads) >= 50
    assert max(len(load.prompt) for load in loads) <= 150
    assert len({len(load.prompt) for load in loads}) > 50
    assert {load.output_len for load in loads} <= set(range(10, 31))
    assert min(min(load.prompt) for load in loads) >= 500
    assert max(max(load.prompt) for load in loads) < 5000
    assert {len(load.prompt) for load in random_loads(5, 7, 3, 300)} == {7}
    with pytest.raises(ConfigError, match="random_range_ratio"):
        random_loads(1, 10, 10, 100, ratio=1.0)


def test_arrivals_keep_the_rate():
    assert arrivals(3, float("inf"), 1.0, 0) == [0.0, 0.0, 0.0]
    poisson, even = (np.diff(arrivals(20000, 50.0, burstiness, 0)) for burstiness in (1.0, 100.0))
    assert poisson.mean() == pytest.approx(1 / 50, rel=0.01)
    assert even.mean() == pytest.approx(1 / 50, rel=0.01)
    assert poisson.std() == pytest.approx(1 / 50, rel=0.05)
    assert even.std() < poisson.std() / 5
    for seed in range(3):
        assert arrivals(120, 4.0, 1.0, seed)[-1] == pytest.approx(30.0)


def test_goodput_counts_requests_that_meet_every_objective():
    answers = [
        Answer(ttft=0.1, latency=0.2, prompt_tokens=1, output_tokens=11),  # 10 ms a token
        Answer(ttft=0.1, latency=0.6, prompt_tokens=1, output_tokens=11),  # 50 ms a token
        Answer(ttft=0.3, latency=0.4, prompt_tokens=1, output_tokens=11),
        Answer(ttft=0.1, latency=0.1, prompt_tokens=1, output_tokens=1),  # has no further token
        Answer(error="refused"),
    ]
    assert "request_goodput" not in report(answers, 2.0, [99])
    for objectives, good in (
        ({"ttft": 200.0}, 3),
        ({"ttft": 200.0, "tpot": 20.0}, 2),
        ({"e2el": 400.0}, 3),
        ({"ttft": 100.0, "e2el": 150.0}, 1),
    ):
        assert report(answers, 2.0, [99], objectives)["request_goodput"] == good / 2


def test_report_against_numbers_by_hand():
    answers = [
        Answer(ttft=0.1, gaps=[0.02, 0.04], latency=0.16, prompt_tokens=10, output_tokens=3),
        Answer(ttft=0.3, gaps=[], latency=0.3, prompt_tokens=20, output_tokens=1),
        Answer(error="refused"),
    ]
    result = report(answers, 2.0, [50, 99])
    assert (result["completed"], result["failed"]) == (2, 1)
    assert (result["total_input_tokens"], result["total_output_tokens"]) == (30, 4)
    assert result["request_throughput"] == 1.0
    assert result["output_throughput"] == 2.0
    assert result["total_token_throughput"] == 17.0
    assert result["mean_ttft_ms"] == pytest.approx(200)
    assert result["p50_ttft_ms"] == pytest.approx(200)
    assert result["p99_ttft_ms"] == pytest.approx(298)
    assert result["mean_tpot_ms"] == pytest.approx(30)  # of the one request with a second token
    assert result["mean_itl_ms"] == pytest.approx(30)
    assert result["median_e2el_ms"] == pytest.approx(230)
    text = table({**result, "max_concurrency": 4, "request_rate": "inf"}, ["ttft", "e2el"])
    assert "Successful requests:                     2" in text
    assert "P99 TTFT (ms):                           298.00" in text
    assert "ITL" not in text


@dataclass
class Loaded:
    """A fake engine behind a real socket."""

    engine: FakeEngine
    url: str

    def run(self, loads, body=None, **given):
        answers, duration = asyncio.run(
            run_load(self.url, "/v1/completions", {}, loads, [0.0] * len(loads), {**BODY, **(body or {})}, **given)
        )
        return answers, duration


@pytest.fixture
def loaded():
    """Serve a fake engine from a thread."""
    engine = FakeEngine(answer="x" * 50, pause=0.001)
    config = uvicorn.Config(create_app(engine, ServerConfig(), Catalogue()), port=0, log_level="error")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    yield Loaded(engine, f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}")
    server.should_exit = True
    thread.join(20)
    assert not thread.is_alive()


BODY = {"stream": True, "stream_options": {"include_usage": True}, "ignore_eos": True}


def test_load_counts_what_the_server_sends(loaded):
    answers, duration = loaded.run([Load([65] * 5, 4), Load([65] * 9, 7)])
    assert [(a.prompt_tokens, a.output_tokens, a.error) for a in answers] == [(5, 4, None), (9, 7, None)]
    assert [len(a.gaps) for a in answers] == [3, 6]
    assert all(0 < a.ttft <= a.latency <= duration for a in answers)
    assert [a.ttft + sum(a.gaps) for a in answers] == pytest.approx([a.latency for a in answers])


def test_load_holds_back_what_exceeds_the_concurrency(loaded):
    seen = []
    plain = loaded.engine.generate

    async def generate(*given, **more):
        running.append(None)
        seen.append(len(running))
        async for output in plain(*given, **more):
            yield output
        running.pop()

    running: list[None] = []
    loaded.engine.generate = generate
    answers, _ = loaded.run([Load([65], 5) for _ in range(12)], max_concurrency=3)
    assert max(seen) == 3
    assert {answer.error for answer in answers} == {None}


def test_load_uses_connections_again(loaded, monkeypatch):
    made = []
    plain = load_client._Connection
    monkeypatch.setattr(load_client, "_Connection", lambda: made.append(plain()) or made[-1])
    answers, _ = loaded.run([Load([65], 3) for _ in range(8)], max_concurrency=2)
    assert {answer.error for answer in answers} == {None}
    assert len(made) == 2
    assert not any(connection.open and not connection._transport.is_closing() for connection in made)


def test_load_tells_refusals_and_errors_amid_a_stream(loaded):
    (answer,), _ = loaded.run([Load([65], 5)], {"seed": "x"})
    assert "400" in answer.error
    loaded.engine.error, loaded.engine.fail_at = ZeroDivisionError(), 2
    (answer,), _ = loaded.run([Load([65], 5)])
    assert "internal_error" in answer.error


def test_load_tells_who_does_not_speak_http_and_who_hangs_up():
    async def against(answer_with):
        async def handle(reader, writer):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer_with)
            writer.close()

        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with server:
            (answer,), _ = await run_load(url, "/x", {}, [Load([65], 5)], [0.0], BODY)
        return answer.error

    assert "does not speak HTTP" in asyncio.run(against(b"SSH-2.0-OpenSSH\r\n\r\n"))
    cut = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\ndata:"
    assert "closed the connection" in asyncio.run(against(cut))
    (answer,), _ = asyncio.run(run_load("http://127.0.0.1:9", "/x", {}, [Load([65], 5)], [0.0], BODY))
    assert "ConnectionRefusedError" in answer.error


def test_no_server_is_told_with_the_address():
    run = CliRunner().invoke(serve, ["--port", "9", "--num-prompts", "1"])
    assert run.exit_code == 1
    assert "no server answers at http://127.0.0.1:9" in str(run.exception)


def test_unknown_metrics_are_refused(monkeypatch):
    class Card:
        model = "m"

        def __init__(self, *given):
            self.card = {"vocab_size": 100}

        def close(self):
            pass

    monkeypatch.setattr("hardpoint.cli.bench_serve.Remote", Card)
    run = CliRunner().invoke(serve, ["--percentile-metrics", "ttft,speed"])
    assert run.exit_code == 2
    assert "speed is none of" in run.output
