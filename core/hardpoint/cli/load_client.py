"""Loads a server with requests at a given rate and times every chunk of the answers.

The connections are ``asyncio`` protocols over httptools' parser: a client that takes a tenth of a millisecond for a chunk, as
general HTTP clients do, would be what is measured from ten thousand tokens a second on.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httptools
import numpy as np

from hardpoint.bench.workloads import Load
from hardpoint.cli.remote import message_of


@dataclass(slots=True)
class Answer:
    """What one request measured, in seconds.

    Attributes:
        start: when it was sent, from the start of the run.
        ttft: until the first chunk with a choice.
        gaps: between chunks after that.
        latency: until the last chunk with a choice.
        prompt_tokens, output_tokens: as the server counts them.
        error: why it failed, ``None`` when it did not.
    """

    start: float = 0.0
    ttft: float = 0.0
    gaps: list[float] = field(default_factory=list)
    latency: float = 0.0
    prompt_tokens: int = 0
    output_tokens: int = 0
    error: str | None = None


def arrivals(count: int, rate: float, burstiness: float, seed: int) -> list[float]:
    """Return when each request is sent, in seconds from the start; 0 for an infinite rate.

    Gaps are gamma-distributed, then stretched so that the last request is sent at ``count / rate``, as vLLM does: runs with
    different seeds last equally long.
    """
    if rate == float("inf"):
        return [0.0] * count
    gaps = np.random.default_rng(seed).gamma(shape=burstiness, scale=1.0 / (rate * burstiness), size=count)
    times = np.cumsum(gaps)
    return [float(time) for time in times * (count / rate / times[-1])]


async def run_load(
    url: str,
    path: str,
    headers: dict[str, str],
    loads: Sequence[Load],
    times: Sequence[float],
    body: dict[str, Any],
    *,
    max_concurrency: int | None = None,
    on_done: Callable[[], None] = lambda: None,
) -> tuple[list[Answer], float]:
    """Send ``loads`` at ``times`` and return their answers and the duration in seconds.

    Args:
        url: of the server.
        path: of the endpoint, a completions one.
        headers: to send along.
        loads: the requests.
        times: when to send each, in seconds from the start.
        body: fields that all requests share.
        max_concurrency: most requests in flight.
        on_done: called after each answer.
    """
    slots = asyncio.Semaphore(max_concurrency or len(loads))
    server = _Server(url, path, headers)
    begin = time.perf_counter()

    async def one(load: Load, when: float) -> Answer:
        await asyncio.sleep(max(0.0, when - (time.perf_counter() - begin)))
        async with slots:
            answer = Answer(start=time.perf_counter() - begin)
            try:
                await server.ask({**body, "prompt": load.prompt, "max_tokens": load.output_len}, answer)
            except OSError as error:
                answer.error = f"{type(error).__name__}: {error}"
        on_done()
        return answer

    try:
        answers = await asyncio.gather(*(one(load, when) for load, when in zip(loads, times, strict=True)))
        return answers, time.perf_counter() - begin
    finally:
        server.close()


class _Server:
    """Connections to one endpoint; those that an answer left open are used again."""

    def __init__(self, url: str, path: str, headers: dict[str, str]) -> None:
        parts = urlsplit(url)
        self._host, secure = parts.hostname or "", parts.scheme == "https"
        self._port = parts.port or (443 if secure else 80)
        self._tls = ssl.create_default_context() if secure else None
        lines = [
            f"POST {parts.path.rstrip('/')}{path} HTTP/1.1",
            f"Host: {parts.netloc}",
            "Content-Type: application/json",
            *(f"{name}: {value}" for name, value in headers.items()),
        ]
        self._head = "\r\n".join(lines) + "\r\nContent-Length: "
        self._idle: list[_Connection] = []

    async def ask(self, body: dict[str, Any], answer: Answer) -> None:
        """Send a request and fill ``answer``.

        Raises:
            OSError: when the server cannot be reached.
        """
        content = json.dumps(body).encode()
        message = f"{self._head}{len(content)}\r\n\r\n".encode() + content
        # A server that has just closed an idle connection has not seen the request.
        connection = next((c for c in iter(lambda: self._idle.pop() if self._idle else None, None) if c.open), None)
        begin = time.perf_counter()
        if connection is None:
            loop = asyncio.get_running_loop()
            _, connection = await loop.create_connection(_Connection, self._host, self._port, ssl=self._tls)
        await connection.ask(message, answer, begin)
        if connection.reusable:
            self._idle.append(connection)
        else:
            connection.close()

    def close(self) -> None:
        for connection in self._idle:
            connection.close()


class _Connection(asyncio.Protocol):
    """One connection; one request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport
        self._parser: Any
        self._done: asyncio.Future[None]
        self._answer: Answer
        self._begin = self._last = self._now = 0.0
        self._rest = b""
        self.open = False
        self.reusable = False

    async def ask(self, message: bytes, answer: Answer, begin: float) -> None:
        """Send ``message`` and return when its answer has ended; times count from ``begin``."""
        self._parser = httptools.HttpResponseParser(self)
        self._done = asyncio.get_running_loop().create_future()
        self._answer, self._begin, self._last, self._rest, self.reusable = answer, begin, begin, b"", False
        self._transport.write(message)
        await self._done
        answer.latency = self._last - begin
        if answer.error is None and not answer.output_tokens:
            answer.error = "the answer ended without its usage"

    def close(self) -> None:
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport, self.open = transport, True

    def connection_lost(self, error: Exception | None) -> None:
        self.open = False
        if hasattr(self, "_done") and not self._done.done():
            why = "the server closed the connection" + (f": {error}" if error else "")
            self._answer.error = self._answer.error or why
            self._done.set_result(None)

    def data_received(self, data: bytes) -> None:
        self._now = time.perf_counter()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._answer.error = f"the server does not speak HTTP: {error}"
            self._transport.abort()

    def on_body(self, body: bytes) -> None:
        """Take a part of the answer; called by the parser."""
        if self._parser.get_status_code() != 200:
            self._rest += body
            return
        *events, self._rest = (self._rest + body).split(b"\n\n")
        for event in events:
            self._take(event)

    def on_message_complete(self) -> None:
        """End the answer; called by the parser."""
        if (status := self._parser.get_status_code()) != 200:
            self._answer.error = message_of(status, self._rest)
        self.reusable = self._parser.should_keep_alive()
        if not self._done.done():
            self._done.set_result(None)

    def _take(self, event: bytes) -> None:
        answer = self._answer
        if event.startswith(b'data: {"error"'):
            answer.error = event.decode(errors="replace")
            return
        # Parsing every chunk would make the client the bottleneck; only the usage is read.
        if b'"completion_tokens"' in event:
            usage = json.loads(event.removeprefix(b"data: "))["usage"]
            answer.prompt_tokens, answer.output_tokens = usage["prompt_tokens"], usage["completion_tokens"]
        if not event.startswith(b"data: {") or b'"choices":[]' in event:
            return
        if not answer.ttft:
            answer.ttft = self._now - self._begin
        else:
            answer.gaps.append(self._now - self._last)
        self._last = self._now
