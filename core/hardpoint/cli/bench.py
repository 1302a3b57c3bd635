"""``hardpoint bench``: a group of measurements, each in its own file."""

from __future__ import annotations

from typing import Final

import click

from hardpoint.cli.lazy import LazyGroup

BENCHMARKS: Final = {
    "workload": ("hardpoint.cli.bench_workload:workload", "The workloads that engines are compared on, by name."),
    "sweep": ("hardpoint.cli.bench_sweep:sweep", "Throughput and latency against the number of requests at once."),
    "compare": ("hardpoint.cli.bench_compare:compare", "Two results side by side."),
    "latency": ("hardpoint.cli.bench_latency:latency", "Time to first token and per output token of one batch."),
    "throughput": ("hardpoint.cli.bench_throughput:throughput", "Requests and tokens per second, all at once."),
    "serve": ("hardpoint.cli.bench_serve:serve", "Load a running server and report its latencies."),
    "engine": ("hardpoint.cli.bench_engine:engine", "Host time per step of scheduler and blocks, without a device."),
}


@click.group(cls=LazyGroup, commands_at=BENCHMARKS)
def bench() -> None:
    """Measure latency, throughput, a server, or the engine's own cost."""
