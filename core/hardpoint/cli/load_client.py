"""Loads a server with requests at a given rate and times every chunk of the answers."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np

from hardpoint.cli.remote import message_of
from hardpoint.cli.workload import Load


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
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(base_url=url, headers=headers, limits=limits, timeout=None) as client:
        begin = time.perf_counter()

        async def one(load: Load, when: float) -> Answer:
            await asyncio.sleep(max(0.0, when - (time.perf_counter() - begin)))
            async with slots:
                answer = Answer(start=time.perf_counter() - begin)
                try:
                    await _time(client, path, {**body, "prompt": load.prompt, "max_tokens": load.output_len}, answer)
                except httpx.HTTPError as error:
                    answer.error = f"{type(error).__name__}: {error}"
            on_done()
            return answer

        answers = await asyncio.gather(*(one(load, when) for load, when in zip(loads, times, strict=True)))
        return answers, time.perf_counter() - begin


async def _time(client: httpx.AsyncClient, path: str, body: dict[str, Any], answer: Answer) -> None:
    begin = last = time.perf_counter()
    async with client.stream("POST", path, json=body) as response:
        if response.status_code != 200:
            answer.error = message_of(response.status_code, await response.aread())
            return
        rest = b""
        async for data in response.aiter_bytes():
            now = time.perf_counter()
            *events, rest = (rest + data).split(b"\n\n")
            for event in events:
                if event.startswith(b'data: {"error"'):
                    answer.error = event.decode(errors="replace")
                    return
                # Parsing every chunk would make the client the bottleneck; only the usage is read.
                if b'"completion_tokens"' in event:
                    usage = json.loads(event.removeprefix(b"data: "))["usage"]
                    answer.prompt_tokens, answer.output_tokens = usage["prompt_tokens"], usage["completion_tokens"]
                if not event.startswith(b"data: {") or b'"choices":[]' in event:
                    continue
                if not answer.ttft:
                    answer.ttft = now - begin
                else:
                    answer.gaps.append(now - last)
                last = now
        answer.latency = last - begin
        if not answer.output_tokens:
            answer.error = "the answer ended without its usage"
