"""``hardpoint bench engine``: what the host pays for a step, without a device.

Times ``Scheduler.schedule()`` plus ``Scheduler.update()`` on the fast null executor, in steady decode with sequences that
are spread over their blocks evenly, so that every step has its share of block boundaries; the lookup of a cached prompt;
and what it costs a request to start and to end. Needs nothing but numpy.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, Final

import click
import numpy as np

from hardpoint.blocks import BlockHasher, BlockPool, PrefixChain, find_prefix
from hardpoint.cli.measure import machine, write_json
from hardpoint.config import EngineConfig
from hardpoint.contract.errors import ConfigError
from hardpoint.contract.kv import KVGroup, KVPlan
from hardpoint.contract.limits import BatchLimits
from hardpoint.contract.runner import Pending
from hardpoint.contract.step import StepPlan
from hardpoint.engine.messages import EngineRequest
from hardpoint.params import SamplingParams
from hardpoint.scheduler import Scheduler
from hardpoint.scheduler.policies import FirstComeFirstServed
from hardpoint.testing.null import FastNullExecutor

VOCAB_SIZE: Final = 32_000
END: Final = VOCAB_SIZE - 1
MAX_MODEL_LEN: Final = 131_072
#: Microseconds per step that the design allows, by running requests.
TARGETS: Final = {64: 150.0, 512: 500.0, 2048: 1500.0}
PREFIX_TARGET: Final = (32_768, 3.0)


class EngineBench:
    """One scheduler on the fast null executor.

    Args:
        running: rows.
        block_size: tokens per cache block.
        blocks: usable cache blocks.
        depth: steps in flight.
    """

    def __init__(self, *, running: int, block_size: int, blocks: int, depth: int) -> None:
        kv = KVPlan(block_size=block_size, num_blocks=blocks + 1, groups=(KVGroup(window=None, layers=(0,)),))
        limits = BatchLimits(max_tokens=max(8192, 2 * running), max_requests=running)
        config = EngineConfig.of(max_num_seqs=running)
        self.scheduler = Scheduler(config, limits, kv, MAX_MODEL_LEN, VOCAB_SIZE, FirstComeFirstServed())
        self._executor = FastNullExecutor(VOCAB_SIZE - 1)
        self._in_flight: deque[tuple[StepPlan, Pending]] = deque()
        self._depth = depth
        self._handle = 0
        #: Rows of the last plan.
        self.num_rows = 0
        self._random = np.random.default_rng(0)

    def add(self, prompt_tokens: int, max_tokens: int) -> None:
        """Queue a request with random token ids."""
        self.add_tokens(self._random.integers(1, END, prompt_tokens, dtype=np.int32), max_tokens)

    def add_tokens(self, token_ids: np.ndarray[Any, np.dtype[np.int32]], max_tokens: int) -> None:
        """Queue a request."""
        self._handle += 1
        params = SamplingParams(max_tokens=max_tokens)
        self.scheduler.add(
            EngineRequest(
                request_id=str(self._handle),
                handles=(self._handle,),
                token_ids=token_ids,
                params=params,
                eos_token_ids=(END,),
            )
        )

    def step(self) -> float:
        """Do what the engine loop does once; return the seconds spent in the scheduler."""
        begin = time.perf_counter()
        plan = self.scheduler.schedule()
        spent = time.perf_counter() - begin
        self.num_rows = 0 if plan is None else len(plan.rows)
        if plan is not None:
            self._in_flight.append((plan, self._executor.submit(plan)))
        if len(self._in_flight) >= self._depth or (plan is None and self._in_flight):
            plan, pending = self._in_flight.popleft()
            result = pending.result()
            begin = time.perf_counter()
            self.scheduler.update(plan, result)
            spent += time.perf_counter() - begin
        return spent


def summary(seconds: Sequence[float]) -> dict[str, float]:
    """Return mean, median and 99th percentile in microseconds."""
    values = np.asarray(seconds) * 1e6
    return {
        "mean_us": float(values.mean()),
        "p50_us": float(np.median(values)),
        "p99_us": float(np.percentile(values, 99)),
    }


def measure_steps(running: int, queued: int, *, steps: int, block_size: int, depth: int) -> dict[str, float]:
    """Return microseconds per step of steady decode with ``running`` sequences and ``queued`` waiting behind them."""
    warm = 4 * block_size + 2 * depth
    prompt = 16 * block_size
    prefills = running * prompt // max(8192 - running, 1) + 2
    tokens = steps + warm + 2 * prefills + depth
    bench = EngineBench(
        running=running,
        block_size=block_size,
        blocks=running * (2 + (prompt + block_size + tokens) // block_size),
        depth=depth,
    )
    for number in range(running):
        bench.add(prompt + number % block_size, tokens)
    for _ in range(queued):
        bench.add(block_size, 16)
    for _ in range(prefills + warm):
        bench.step()
    times = []
    for _ in range(steps):
        times.append(bench.step())
        if bench.num_rows != running:
            raise RuntimeError(f"{bench.num_rows} of {running} rows decode in a step that should be steady")
    return {"running": running, "queued": queued, **summary(times)}


def measure_prefix(tokens: int, *, block_size: int, repeats: int) -> dict[str, float]:
    """Return microseconds to hash and look up a prompt that is cached whole, and one that is not cached at all."""
    count = tokens // block_size
    pool = BlockPool(count + 1)
    hasher = BlockHasher(block_size)
    root = hasher.root(None, None)
    token_ids = np.random.default_rng(0).integers(1, END, tokens, dtype=np.int32)
    chain = PrefixChain(hasher, root, token_ids.tobytes())
    blocks = pool.take(count)
    pool.register(0, chain.upto(count), blocks.tolist())
    pool.release(blocks)
    hits: list[float] = []
    misses: list[float] = []
    for _ in range(repeats):
        for times, ids in ((hits, token_ids), (misses, token_ids + 1)):
            begin = time.perf_counter()
            hit = find_prefix(pool, (None,), block_size, PrefixChain(hasher, root, ids.tobytes()), count)
            times.append(time.perf_counter() - begin)
            if hit.num_blocks != (count if times is hits else 0):
                raise AssertionError(f"{hit.num_blocks} of {count} blocks were found")
    admissions = _admissions(token_ids, block_size, repeats)
    return {
        "tokens": tokens,
        "hit_us": summary(hits)["mean_us"],
        "miss_us": summary(misses)["mean_us"],
        "admit_us": summary(admissions)["mean_us"],
    }


def _admissions(token_ids: np.ndarray[Any, np.dtype[np.int32]], block_size: int, repeats: int) -> list[float]:
    """Return seconds of a step that admits a prompt which is cached whole, lookup and block table included."""
    bench = EngineBench(running=1, block_size=block_size, blocks=len(token_ids) // block_size + 2, depth=1)
    times = []
    for repeat in range(repeats + 1):
        bench.add_tokens(token_ids, 1)
        first = bench.step()
        while bench.scheduler.has_work:
            bench.step()
        if repeat:
            times.append(first)
    return times


def measure_churn(*, requests: int, prompt_tokens: int, block_size: int) -> dict[str, float]:
    """Return microseconds that a request costs the scheduler from ``add`` to its end, with two generated tokens."""
    running = 256
    bench = EngineBench(
        running=running, block_size=block_size, blocks=running * (prompt_tokens // block_size + 2), depth=2
    )
    spent = 0.0
    begin = time.perf_counter()
    for _ in range(requests):
        bench.add(prompt_tokens, 2)
    added = time.perf_counter() - begin
    while bench.scheduler.has_work:
        spent += bench.step()
    return {
        "requests": requests,
        "prompt_tokens": prompt_tokens,
        "add_us": added / requests * 1e6,
        "request_us": spent / requests * 1e6,
    }


def print_tables(result: dict[str, Any]) -> None:
    """Print what was measured."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table(title="schedule + update per step, steady decode (µs)")
    for column in ("running", "queued", "mean", "p50", "p99", "allowed"):
        table.add_column(column, justify="right")
    for row in result["steps"]:
        allowed = TARGETS.get(int(row["running"]))
        table.add_row(
            f"{row['running']:,}",
            f"{row['queued']:,}",
            *(f"{row[name]:.0f}" for name in ("mean_us", "p50_us", "p99_us")),
            f"{allowed:.0f}" if allowed else "",
        )
    console.print(table)
    table = Table(title="cached prompt (ms)")
    for column in ("tokens", "lookup, all cached", "lookup, nothing cached", "step that admits it"):
        table.add_column(column, justify="right")
    for row in result["prefix"]:
        table.add_row(f"{row['tokens']:,}", *(f"{row[name] / 1e3:.3f}" for name in ("hit_us", "miss_us", "admit_us")))
    console.print(table)
    churn = result["churn"]
    console.print(
        f"a request of {churn['prompt_tokens']} prompt tokens costs {churn['add_us']:.0f} µs to add and "
        f"{churn['request_us']:.0f} µs from its start to its end (two tokens)"
    )


def plot(result: dict[str, Any], path: str) -> None:
    """Draw both curves to a file.

    Raises:
        ConfigError: when matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError("--plot needs matplotlib; pip install 'hardpoint[bench]'") from error
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for queued in sorted({int(row["queued"]) for row in result["steps"]}):
        rows = [row for row in result["steps"] if row["queued"] == queued]
        left.plot([r["running"] for r in rows], [r["mean_us"] for r in rows], "o-", label=f"{queued:,} queued")
    left.plot(list(TARGETS), list(TARGETS.values()), "kv", label="allowed")
    left.set(xscale="log", yscale="log", xlabel="running sequences", ylabel="µs per step, mean")
    left.set_title("schedule + update")
    right.plot(
        [r["tokens"] for r in result["prefix"]], [r["hit_us"] / 1e3 for r in result["prefix"]], "o-", label="lookup"
    )
    right.plot(
        [r["tokens"] for r in result["prefix"]],
        [r["admit_us"] / 1e3 for r in result["prefix"]],
        "o-",
        label="whole step",
    )
    right.plot(*[[value] for value in PREFIX_TARGET], "kv", label="allowed")
    right.set(xlabel="prompt tokens, all cached", ylabel="ms")
    right.set_title("prefix cache")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=120)


@click.command()
@click.option("--running", multiple=True, type=click.IntRange(1), help="Running sequences; may be repeated.")
@click.option("--queued", default=100_000, type=click.IntRange(0), help="Waiting requests of the second series.")
@click.option("--steps", default=400, type=click.IntRange(16), help="Steps measured per point.")
@click.option("--prefix", multiple=True, type=click.IntRange(16), help="Prompt tokens of a lookup; may be repeated.")
@click.option("--block-size", default=16, type=click.IntRange(1), help="Tokens in one cache block.")
@click.option("--depth", default=2, type=click.IntRange(1, 2), help="Steps in flight.")
@click.option("--json", "json_path", help="Write the result to this file; - is standard output.")
@click.option("--plot", "plot_path", help="Draw the curves to this file (needs matplotlib).")
def engine(
    running: tuple[int, ...],
    queued: int,
    steps: int,
    prefix: tuple[int, ...],
    block_size: int,
    depth: int,
    json_path: str | None,
    plot_path: str | None,
) -> None:
    """Measure the host's time per step of scheduler and blocks, without a device."""
    counts = running or (1, 4, 16, 64, 128, 256, 512, 1024, 2048)
    result = {
        **machine(),
        "block_size": block_size,
        "depth": depth,
        "steps": [
            measure_steps(count, waiting, steps=steps, block_size=block_size, depth=depth)
            for waiting in dict.fromkeys((0, queued))
            for count in counts
        ],
        "prefix": [
            measure_prefix(tokens, block_size=block_size, repeats=20)
            for tokens in prefix or (1024, 4096, 8192, 16_384, 32_768, 65_536)
        ],
        "churn": measure_churn(requests=2000, prompt_tokens=256, block_size=block_size),
    }
    if plot_path is not None:
        plot(result, plot_path)
    if json_path == "-":
        click.echo(json.dumps(result, indent=1))
        return
    if json_path is not None:
        write_json(json_path, result)
    print_tables(result)
