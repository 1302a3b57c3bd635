"""``GET /metrics`` for Prometheus. Names are vLLM's with our prefix where the meaning is the same."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Any, ClassVar

from fastapi import APIRouter
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.responses import Response

from hardpoint.contract.routes import Serving
from hardpoint.outputs import RequestOutput
from hardpoint.params import SamplingParams

_LABELS = ("model_name", "engine")
_TTFT = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640)
_TOKEN = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20)
_REQUEST = (0.1, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920)
_COUNTS = tuple(base * 10**power for power in range(6) for base in (1, 2, 5))
_N = (1, 2, 5, 10, 20)


class MetricsRoutes:
    """Prometheus' scrape endpoint."""

    name: ClassVar[str] = "metrics"

    def router(self, serving: Serving) -> APIRouter:
        """Return ``/metrics``."""
        router = APIRouter(tags=["metrics"])

        @router.get("/metrics")
        async def metrics() -> Response:
            return Response(generate_latest(serving.registry), media_type=CONTENT_TYPE_PLAIN_0_0_4)

        return router


class EngineCollector:
    """Reads the scheduler's numbers when Prometheus asks, so that steps pay nothing for them."""

    _GAUGES: ClassVar = {
        "num_requests_running": ("Sequences that run.", "running"),
        "num_requests_waiting": ("Sequences that wait.", "waiting"),
    }
    _COUNTERS: ClassVar = {
        "num_preemptions": ("Sequences that had to give their blocks back.", "preemptions"),
        "prefix_cache_queries": ("Prompt tokens looked up in the prefix cache.", "prefix_queries"),
        "prefix_cache_hits": ("Prompt tokens found in the prefix cache.", "prefix_hits"),
        "prompt_tokens": ("Prompt tokens of started requests.", "prompt_tokens"),
        "generation_tokens": ("Tokens generated.", "generation_tokens"),
        "engine_steps": ("Steps of the engine.", "steps"),
    }

    def __init__(self, engine: Any, model: str) -> None:
        self._engine = engine
        self._values = (model, "0")

    def collect(self) -> Iterator[Metric]:
        """Yield the engine's gauges and counters."""
        stats = self._engine.stats()
        for name, (help, field) in self._GAUGES.items():
            yield self._family(GaugeMetricFamily, name, help, getattr(stats, field))
        for name, (help, field) in self._COUNTERS.items():
            yield self._family(CounterMetricFamily, name, help, getattr(stats, field))
        used = stats.blocks_used / stats.blocks_total if stats.blocks_total else 0.0
        yield self._family(GaugeMetricFamily, "kv_cache_usage_perc", "Part of the KV cache in use; 1 is all.", used)
        cache = self._engine.info.config["cache"]
        info = InfoMetricFamily("hardpoint:cache_config", "Settings of the KV cache.")
        facts = {**cache, "num_blocks": self._engine.info.num_blocks, "block_size": self._engine.info.block_size}
        info.add_metric((), {name: str(value) for name, value in facts.items()})
        yield info

    def _family(self, kind: Any, name: str, help: str, value: float) -> Metric:
        family: Metric = kind(f"hardpoint:{name}", help, labels=_LABELS)
        family.add_metric(self._values, value)  # type: ignore[attr-defined]
        return family


class RequestMetrics:
    """Counts requests and times their tokens on the way out."""

    def __init__(self, registry: CollectorRegistry, model: str) -> None:
        def histogram(name: str, help: str, buckets: tuple[float, ...]) -> Histogram:
            made = Histogram(f"hardpoint:{name}", help, _LABELS, registry=registry, buckets=buckets)
            return made.labels(model, "0")

        self._model = model
        self._success = Counter(
            "hardpoint:request_success",
            "Sequences that ended, by reason.",
            (*_LABELS, "finished_reason"),
            registry=registry,
        )
        self._cached = Counter(
            "hardpoint:prompt_tokens_cached", "Prompt tokens that came from the cache.", _LABELS, registry=registry
        ).labels(model, "0")
        self._failed = Counter(
            "hardpoint:request_failure",
            "Requests that ended with an error, by its class.",
            (*_LABELS, "error"),
            registry=registry,
        )
        self._answers = Counter(
            "hardpoint:http_requests",
            "HTTP requests answered.",
            ("method", "route", "status"),
            registry=registry,
        )
        self._ttft = histogram("time_to_first_token_seconds", "From arrival to the first token.", _TTFT)
        self._itl = histogram("inter_token_latency_seconds", "Between two outputs of a sequence.", _TOKEN)
        self._tpot = histogram(
            "request_time_per_output_token_seconds", "Mean time per token after the first, by request.", _TOKEN
        )
        self._e2e = histogram("e2e_request_latency_seconds", "From arrival to the last token.", _REQUEST)
        self._prompt = histogram("request_prompt_tokens", "Prompt tokens of a request.", _COUNTS)
        self._generated = histogram("request_generation_tokens", "Tokens generated for a request.", _COUNTS)
        self._n = histogram("request_params_n", "n of a request.", _N)
        self._max_tokens = histogram("request_params_max_tokens", "max_tokens of a request.", _COUNTS)

    def count_answer(self, method: str, route: str, status: int) -> None:
        """Count an HTTP answer; ``route`` is the template of the path, not the path."""
        self._answers.labels(method, route, str(status)).inc()

    async def watch(
        self, outputs: AsyncGenerator[RequestOutput, None], params: SamplingParams
    ) -> AsyncGenerator[RequestOutput, None]:
        """Yield what ``outputs`` yields and measure it; closing this closes ``outputs``."""
        arrival = time.monotonic()
        last: dict[int, float] = {}
        tokens, finished = 0, False
        self._n.observe(params.n)
        if params.max_tokens is not None:
            self._max_tokens.observe(params.max_tokens)
        try:
            async with aclosing(outputs) as stream:
                async for output in stream:
                    now = time.monotonic()
                    if not last:
                        self._start(output)
                    for completion in output.outputs:
                        tokens += len(completion.token_ids)
                        if (before := last.get(completion.index)) is not None:
                            self._itl.observe(now - before)
                        last[completion.index] = now
                        if completion.finish_reason is not None:
                            self._ended(completion.finish_reason)
                    finished = output.finished
                    if finished:
                        self._finish(output, now - arrival, tokens, params)
                    yield output
        except (GeneratorExit, asyncio.CancelledError):
            if not finished:
                self._ended("abort")
            raise
        except Exception as error:
            self._failed.labels(self._model, "0", type(error).__name__).inc()
            raise

    def _ended(self, reason: str) -> None:
        self._success.labels(self._model, "0", reason).inc()

    def _start(self, output: RequestOutput) -> None:
        self._prompt.observe(len(output.prompt_token_ids))
        self._cached.inc(output.num_cached_tokens or 0)
        times = output.metrics
        if times is not None and times.first_token_time is not None:
            self._ttft.observe(times.first_token_time - times.arrival_time)

    def _finish(self, output: RequestOutput, elapsed: float, tokens: int, params: SamplingParams) -> None:
        self._e2e.observe(elapsed)
        self._generated.observe(tokens)
        times = output.metrics
        if times is None or times.first_token_time is None or times.last_token_time is None or tokens <= params.n:
            return
        # Sequences run beside each other: the time is shared by all of them.
        self._tpot.observe((times.last_token_time - times.first_token_time) * params.n / (tokens - params.n))
