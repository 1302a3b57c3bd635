"""``hardpoint bench sweep``: throughput and latency against the number of requests at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import numpy as np

from hardpoint.bench.plot import draw
from hardpoint.bench.shapes import names
from hardpoint.bench.workloads import fixed
from hardpoint.cli.bench_workload import measure, run, with_shape
from hardpoint.cli.measure import record, write_json
from hardpoint.cli.options import SettingsCommand, config_from, engine_options
from hardpoint.cli.render import console, section
from hardpoint.cli.workload import LENGTH
from hardpoint.contract.errors import ConfigError
from hardpoint.engine.frontend import open_engine
from hardpoint.llm import LLM


@click.command(cls=SettingsCommand)
@click.option("--shape", help=f"Random weights of a published shape: {', '.join(names())}.")
@click.option("--concurrency", default="1,2,4,8,16,32,64,128,256", show_default=True, help="Requests at once.")
@click.option("--input-len", type=LENGTH, default=1024, show_default=True)
@click.option("--output-len", type=LENGTH, default=128, show_default=True)
@click.option("--repetitions", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--workload-seed", default=0, show_default=True, help="Seed of the prompts.")
@click.option("--label", help="Name of the curve; the model's by default.")
@click.option("--plot", "plot_path", help="Draw the curves to this file: .svg, .png or .pdf (needs hardpoint[bench]).")
@click.option("--beside", multiple=True, type=click.Path(exists=True, path_type=Path), help="Draw these results too.")
@click.option("--output-json", help="Write the full record to this file.")
@click.option("--json", "as_json", is_flag=True, help="Print the full record instead of the table.")
@engine_options()
def sweep(**given: Any) -> None:
    """Run equal requests, more and more of them at once, and report throughput and latencies."""
    counts = _counts(given["concurrency"])
    others = [json.loads(path.read_text(encoding="utf-8")) for path in given["beside"]]
    config = config_from(with_shape(given))
    with LLM.over(*open_engine(config, in_process=True)) as llm:
        vocab, seed = llm.info.vocab_size, given["workload_seed"]
        result = {
            "kind": "sweep",
            "label": given["label"] or llm.info.model,
            **record(llm.info),
            "seed": seed,
            **{name: given[name] for name in ("input_len", "output_len", "repetitions")},
            "points": [],
        }
        for count in counts:
            loads = fixed(count, given["input_len"], given["output_len"], vocab, seed)
            # What is prepared when a size is first seen is no part of the curve.
            run(llm, loads)
            result["points"].append({"concurrency": count, **measure(llm, loads, given["repetitions"])})
    if given["output_json"]:
        write_json(given["output_json"], result)
    if given["plot_path"]:
        draw([result, *others], given["plot_path"])
    if given["as_json"]:
        click.echo(json.dumps(result, indent=1, default=str))
    else:
        _show(result)


def _counts(text: str) -> list[int]:
    try:
        counts = sorted({int(part) for part in text.split(",")})
    except ValueError as error:
        raise ConfigError(f"--concurrency is {text!r}; it must be whole numbers, e.g. 1,8,64") from error
    if counts[0] < 1:
        raise ConfigError(f"--concurrency has {counts[0]}; the least is 1")
    return counts


def _show(result: dict[str, Any]) -> None:
    rows = (
        (
            point["concurrency"],
            f"{point['out_tok_s']:,.0f}",
            f"{point['total_tok_s']:,.0f}",
            f"{point['ttft_ms']:.1f}",
            f"{point['tpot_ms']:.3f}",
            f"{point['spread']:.1%}",
        )
        for point in result["points"]
    )
    title = f"{result['label']}: {result['input_len']} tokens in, {result['output_len']} out"
    columns = ("AT ONCE", "OUTPUT TOK/S", "TOTAL TOK/S", "TTFT MS", "MS PER TOKEN", "SPREAD")
    section(console(), title, columns, rows)
    speeds = [point["out_tok_s"] for point in result["points"]]
    console().print(
        f"most: {max(speeds):,.0f} output tokens/s at {result['points'][int(np.argmax(speeds))]['concurrency']}"
    )
