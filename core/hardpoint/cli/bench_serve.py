"""``hardpoint bench serve``: load a running server and report its latencies, printed and named as vLLM does."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import click
from tqdm import tqdm

from hardpoint.bench.workloads import Load
from hardpoint.cli.load_client import Answer, arrivals, run_load
from hardpoint.cli.measure import machine, summary, write_json
from hardpoint.cli.remote import Remote, ServerError
from hardpoint.cli.workload import LENGTH, RATIO_HELP, random_loads

_TITLES = {
    "ttft": ("Time to First Token", "TTFT"),
    "tpot": ("Time per Output Token (excl. 1st token)", "TPOT"),
    "itl": ("Inter-token Latency", "ITL"),
    "e2el": ("End-to-end Latency", "E2EL"),
}
#: Metrics that ``--goodput`` takes.
_OBJECTIVES = ("ttft", "tpot", "e2el")
_WIDTH = 50


@click.command()
@click.option("--base-url", help="Server to load; overrides --host and --port.")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8000, show_default=True)
@click.option("--endpoint", default="/v1/completions", show_default=True, help="A completions endpoint.")
@click.option("--api-key", help="Bearer token, if the server asks for one.")
@click.option("--model", help="Model to ask for; the server's first one by default.")
@click.option("--num-prompts", type=LENGTH, default=1000, show_default=True)
@click.option("--random-input-len", "--input-len", type=LENGTH, default=1024, show_default=True)
@click.option("--random-output-len", "--output-len", type=LENGTH, default=128, show_default=True)
@click.option("--random-range-ratio", default=0.0, show_default=True, help=RATIO_HELP)
@click.option("--vocab-size", type=LENGTH, help="Ids are below this; asked of the server by default.")
@click.option("--request-rate", type=float, default=float("inf"), show_default=True, help="Requests per second.")
@click.option("--burstiness", type=float, default=1.0, show_default=True, help="1 is Poisson; more is more even.")
@click.option("--max-concurrency", type=LENGTH, help="Most requests in flight.")
@click.option("--num-warmups", type=int, default=0, show_default=True, help="Requests sent before the clock runs.")
@click.option(
    "--warm-prompts", is_flag=True, help="Send every prompt once first, for its first token: a warm prefix cache."
)
@click.option(
    "--goodput",
    multiple=True,
    metavar="NAME:MS",
    help="Count requests that meet this objective, e.g. ttft:200 or tpot:50; may be repeated.",
)
@click.option("--temperature", type=float, default=0.0, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--metric-percentiles", default="90,99", show_default=True)
@click.option("--percentile-metrics", default="ttft,tpot,itl,e2el", show_default=True)
@click.option("--save-result", is_flag=True, help="Write the result to a JSON file.")
@click.option("--result-dir", default=".", show_default=True)
@click.option("--result-filename", help="Made of the time and the rate by default.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of the table.")
@click.option("--disable-tqdm", is_flag=True, help="Show no progress.")
def serve(**given: Any) -> None:
    """Load a running server with random prompts and report throughput and latencies."""
    url = given["base_url"] or f"http://{given['host']}:{given['port']}"
    if given["request_rate"] <= 0 or given["burstiness"] <= 0:
        raise click.UsageError("--request-rate and --burstiness must be above 0")
    remote = Remote(url, given["api_key"], given["model"])
    remote.close()
    vocab = given["vocab_size"] or remote.card.get("vocab_size")
    if vocab is None:
        raise click.UsageError("the server does not say how large its vocabulary is; give --vocab-size")
    metrics = [name.strip() for name in given["percentile_metrics"].split(",")]
    if unknown := [name for name in metrics if name not in _TITLES]:
        raise click.UsageError(f"--percentile-metrics: {', '.join(unknown)} is none of {', '.join(_TITLES)}")
    objectives = _objectives(given["goodput"])
    result = _measure(url, remote.model, vocab, given, objectives)
    _check(result.pop("errors"), result)
    if given["as_json"]:
        click.echo(json.dumps(result, indent=1))
    else:
        click.echo(table(result, metrics))
    if given["save_result"]:
        name = given["result_filename"] or f"{time.strftime('%Y%m%d-%H%M%S')}-{given['request_rate']:g}qps.json"
        write_json(f"{given['result_dir']}/{name}", result)


def _objectives(texts: Sequence[str]) -> dict[str, float]:
    """Return metric -> most milliseconds."""
    found: dict[str, float] = {}
    for text in texts:
        name, _, limit = text.partition(":")
        try:
            found[name] = float(limit)
        except ValueError:
            found[name] = -1.0
        if name not in _OBJECTIVES or found[name] < 0:
            raise click.UsageError(
                f"--goodput {text!r} is no objective; give {', '.join(_OBJECTIVES)} with ms, e.g. ttft:200"
            )
    return found


def _measure(
    url: str, model: str, vocab: int, given: dict[str, Any], objectives: Mapping[str, float]
) -> dict[str, Any]:
    lengths = (given["random_input_len"], given["random_output_len"], vocab)
    ratio, seed = given["random_range_ratio"], given["seed"]
    loads = random_loads(given["num_prompts"], *lengths, ratio=ratio, seed=seed)
    headers = {"Authorization": f"Bearer {given['api_key']}"} if given["api_key"] else {}
    body = {
        "model": model,
        "temperature": given["temperature"],
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if given["num_warmups"]:
        # Prompts of their own: those of the run must not find their prefixes in the cache.
        warm = random_loads(given["num_warmups"], *lengths, ratio=ratio, seed=seed + 1)
        asyncio.run(run_load(url, given["endpoint"], headers, warm, [0.0] * len(warm), body))
    if given["warm_prompts"]:
        once = [Load(load.prompt, 1) for load in loads]
        asyncio.run(run_load(url, given["endpoint"], headers, once, [0.0] * len(once), body))
    times = arrivals(len(loads), given["request_rate"], given["burstiness"], seed)
    with tqdm(total=len(loads), disable=given["disable_tqdm"] or given["as_json"]) as bar:
        answers, duration = asyncio.run(
            run_load(
                url,
                given["endpoint"],
                headers,
                loads,
                times,
                body,
                max_concurrency=given["max_concurrency"],
                on_done=lambda: bar.update(),
            )
        )
    wanted = [float(each) for each in given["metric_percentiles"].split(",")]
    rate = given["request_rate"]
    return {
        **machine(),
        "date": time.strftime("%Y-%m-%d %H:%M:%S"),
        "model": model,
        "num_prompts": len(loads),
        "request_rate": "inf" if rate == float("inf") else rate,
        "burstiness": given["burstiness"],
        "max_concurrency": given["max_concurrency"],
        "seed": seed,
        "warm_prompts": given["warm_prompts"],
        **report(answers, duration, wanted, objectives),
        "errors": [answer.error for answer in answers if answer.error],
    }


def report(
    answers: Sequence[Answer], duration: float, wanted: Sequence[float], objectives: Mapping[str, float] | None = None
) -> dict[str, Any]:
    """Return the result of a run under vLLM's keys, defined as vLLM defines them.

    Time to first token is until the first chunk, per output token what is left of the latency over the other tokens (of
    requests that have others), inter-token latency every gap between chunks, goodput the requests per second that meet all
    objectives.

    Args:
        answers: of all requests.
        duration: seconds of the run.
        wanted: percentiles.
        objectives: metric -> most milliseconds.
    """
    done = [answer for answer in answers if answer.error is None]
    inputs = sum(answer.prompt_tokens for answer in done)
    outputs = sum(answer.output_tokens for answer in done)
    tpots = [_per_token(answer) for answer in done if answer.output_tokens > 1]
    return {
        "duration": duration,
        "completed": len(done),
        "failed": len(answers) - len(done),
        "total_input_tokens": inputs,
        "total_output_tokens": outputs,
        "request_throughput": len(done) / duration,
        **({"request_goodput": sum(_meets(answer, objectives) for answer in done) / duration} if objectives else {}),
        "output_throughput": outputs / duration,
        "total_token_throughput": (inputs + outputs) / duration,
        **summary([answer.ttft for answer in done], "ttft", wanted),
        **summary(tpots, "tpot", wanted),
        **summary([gap for answer in done for gap in answer.gaps], "itl", wanted),
        **summary([answer.latency for answer in done], "e2el", wanted),
    }


def _per_token(answer: Answer) -> float:
    return (answer.latency - answer.ttft) / (answer.output_tokens - 1) if answer.output_tokens > 1 else 0.0


def _meets(answer: Answer, objectives: Mapping[str, float]) -> bool:
    found = {"ttft": answer.ttft, "tpot": _per_token(answer), "e2el": answer.latency}
    return all(found[name] * 1e3 <= limit for name, limit in objectives.items())


def table(result: dict[str, Any], metrics: Sequence[str]) -> str:
    """Return the result as vLLM prints it."""
    rows = [" Serving Benchmark Result ".center(_WIDTH, "=")]

    def row(label: str, value: Any) -> None:
        rows.append(f"{label:<40} {value:<10.2f}" if isinstance(value, float) else f"{label:<40} {value:<10}")

    row("Successful requests:", result["completed"])
    row("Failed requests:", result["failed"])
    if result["max_concurrency"]:
        row("Maximum request concurrency:", result["max_concurrency"])
    if result["request_rate"] != "inf":
        row("Request rate configured (RPS):", result["request_rate"])
    row("Benchmark duration (s):", result["duration"])
    row("Total input tokens:", result["total_input_tokens"])
    row("Total generated tokens:", result["total_output_tokens"])
    row("Request throughput (req/s):", result["request_throughput"])
    if "request_goodput" in result:
        row("Request goodput (req/s):", result["request_goodput"])
    row("Output token throughput (tok/s):", result["output_throughput"])
    row("Total token throughput (tok/s):", result["total_token_throughput"])
    for name in metrics:
        title, short = _TITLES[name]
        rows.append(title.center(_WIDTH, "-"))
        keys = [key for key in result if key.endswith(f"_{name}_ms") and not key.startswith("std_")]
        for key in keys:
            row(f"{key.split('_')[0].capitalize()} {short} (ms):", result[key])
    rows.append("=" * _WIDTH)
    return "\n".join(rows)


def _check(errors: Sequence[str], result: dict[str, Any]) -> None:
    if not result["completed"]:
        raise ServerError(f"all {result['failed']} requests failed; the first: {errors[0]}")
    if errors:
        click.echo(f"{len(errors)} requests failed; the first: {errors[0]}", err=True)
