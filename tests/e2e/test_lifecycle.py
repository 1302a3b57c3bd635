"""How a server starts, drains, and what is told when its engine dies."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import psutil
import pytest
from server_process import CONTEXT, MODEL, ServerProcess, until

LONG = {"model": MODEL, "prompt": "Hello", "ignore_eos": True}


def _is_gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_engine_death_reaches_everybody(own_server):
    server = own_server()
    engine = server.engine_pid
    first = threading.Event()

    def stream():
        chunks = server.client.completions.create(
            model=MODEL, prompt="Hello", max_tokens=CONTEXT, stream=True, extra_body={"ignore_eos": True}
        )
        for _ in chunks:
            first.set()

    def whole():
        server.client.completions.create(model=MODEL, prompt="Hi", max_tokens=CONTEXT, extra_body={"ignore_eos": True})

    with ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(stream), pool.submit(whole), pool.submit(whole)]
        assert first.wait(60)
        assert until(lambda: server.metric("num_requests_running") == 3)
        begin = time.monotonic()
        os.kill(engine, signal.SIGKILL)
        errors = [each.exception(timeout=20) for each in waiting]
        assert time.monotonic() - begin < 15
    assert all(isinstance(error, openai.APIError) for error in errors), errors
    assert all("signal 9" in str(error) or "SIGKILL" in str(error) for error in errors), errors
    health = httpx.get(f"{server.url}/health")
    assert health.status_code == 503
    assert health.json()["status"] == "dead"
    with pytest.raises(openai.InternalServerError) as refused:
        server.client.completions.create(model=MODEL, prompt="Hi")
    assert refused.value.status_code == 503
    assert refused.value.body["code"] == "engine_dead"
    # The server still ends as it should.
    assert server.terminate() == 0


def test_sigterm_lets_running_requests_finish(own_server):
    server = own_server("--shutdown-timeout", "60")
    engine = server.engine_pid
    first = threading.Event()

    def stream():
        tokens, reason = 0, None
        body = {**LONG, "max_tokens": 400, "stream": True, "stream_options": {"include_usage": True}}
        chunks = server.client.completions.create(
            model=MODEL,
            prompt="Hello",
            max_tokens=400,
            stream=True,
            stream_options=body["stream_options"],
            extra_body={"ignore_eos": True},
        )
        for chunk in chunks:
            first.set()
            tokens = chunk.usage.completion_tokens if chunk.usage else tokens
            reason = chunk.choices[0].finish_reason if chunk.choices else reason
        return tokens, reason

    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(stream)
        assert first.wait(60)
        assert not answer.done()
        server.process.send_signal(signal.SIGTERM)
        assert answer.result(60) == (400, "length")
    assert server.process.wait(30) == 0
    assert until(lambda: _is_gone(engine))
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{server.url}/health")


@pytest.mark.slow
def test_sigterm_without_time_aborts(own_server):
    server = own_server("--shutdown-timeout", "0")
    engine = server.engine_pid
    with (
        server.http as http,
        http.stream("POST", "/v1/completions", json={**LONG, "max_tokens": CONTEXT, "stream": True}) as response,
    ):
        chunks = response.iter_bytes()
        next(chunks)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(20) == 0
        with pytest.raises(httpx.RemoteProtocolError):
            list(chunks)
    assert until(lambda: _is_gone(engine))


@pytest.mark.slow
def test_a_killed_server_leaves_no_engine_behind(own_server):
    server = own_server()
    engine = server.engine_pid
    server.process.kill()
    server.process.wait(10)
    assert until(lambda: _is_gone(engine))


def test_a_taken_port_is_told_before_the_model_loads(tiny_model, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        server = ServerProcess(tiny_model, tmp_path / "log", "--port", port)
        assert server.process.wait(60) == 2
    assert f"cannot bind 127.0.0.1 port {port}" in server.log
    assert "Traceback" not in server.log
    server.close()


@pytest.mark.slow
def test_a_unix_socket_is_served_and_removed(tiny_model, tmp_path):
    path = tmp_path / "hardpoint.sock"
    server = ServerProcess(tiny_model, tmp_path / "log", "--uds", str(path))
    try:
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://local") as http:

            def answers() -> bool:
                try:
                    return http.get("/health").status_code == 200
                except httpx.TransportError:
                    return False

            assert until(answers, 120), server.log
    finally:
        server.close()
    assert not path.exists()


@pytest.mark.slow
def test_a_full_queue_is_429(own_server):
    server = own_server("--max-num-seqs", "1", "--max-queue", "1")
    statuses = []

    def ask() -> None:
        with server.http as http:
            statuses.append(http.post("/v1/completions", json={**LONG, "max_tokens": 300}).status_code)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(statuses) == {200, 429}
