"""``hardpoint bench workload``: the workloads that engines are compared on, by name."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any, Final

import click
import numpy as np

from hardpoint.bench.shapes import PREFIX, SETTINGS, folder, names
from hardpoint.bench.workloads import WORKLOADS, Load, Workload, fixed, named, scaled
from hardpoint.cli.measure import record, spread, write_json
from hardpoint.cli.options import SettingsCommand, config_from, engine_options
from hardpoint.cli.profiling import PROFILE, profiled
from hardpoint.cli.render import console, section
from hardpoint.contract.errors import ConfigError
from hardpoint.engine.frontend import open_engine
from hardpoint.llm import LLM
from hardpoint.params import SamplingParams

#: What the published numbers of other engines were taken with.
_DEFAULTS: Final = {"max_model_len": 32768, "max_num_seqs": 512}
_FIRST_TOKEN_RUNS: Final = 3


@click.command(
    cls=SettingsCommand, epilog="Workloads: " + "; ".join(f"{w.name}: {w.summary}" for w in WORKLOADS.values())
)
@click.argument("workloads", nargs=-1, metavar="[WORKLOAD]...")
@click.option("--shape", help=f"Random weights of a published shape: {', '.join(names())}.")
@click.option("--repetitions", type=click.IntRange(min=1), help="Runs of each workload.")
@click.option("--workload-seed", default=0, show_default=True, help="Seed of the prompts.")
@click.option("--scale", default=1.0, show_default=True, help="Multiply prompt and output lengths, for small models.")
@click.option("--requests", type=click.IntRange(min=1), help="Only the first so many requests of each workload.")
@PROFILE
@click.option("--no-warmup", is_flag=True, help="Let the first run pay for what is prepared on first use.")
@click.option("--output-json", help="Write the full record to this file.")
@click.option("--json", "as_json", is_flag=True, help="Print the full record instead of the table.")
@engine_options()
def workload(**given: Any) -> None:
    """Run WORKLOADs by name (all of them by default) in this process and report times.

    The prefix cache is emptied before every repetition, decoding is greedy, nothing ends early. The median counts; every
    repetition is kept.
    """
    chosen = named(given["workloads"])
    if not 0.0 < given["scale"] <= 1.0:
        raise ConfigError(f"--scale is {given['scale']}; it must be above 0 and at most 1")
    config = config_from(with_shape(given))
    begin = time.perf_counter()
    with LLM.over(*open_engine(config, in_process=True)) as llm:
        started = time.perf_counter() - begin
        result = {
            "kind": "workload",
            **record(llm.info),
            "seed": given["workload_seed"],
            "scale": given["scale"],
            "requests": given["requests"],
            "startup_s": round(started, 3),
            "workloads": {},
        }
        sized = {each.name: _sized(each, llm, given) for each in chosen}
        if not given["no_warmup"]:
            _warm(llm, given["scale"])
        for each in chosen:
            result["workloads"][each.name] = measured(llm, each, sized[each.name], given["repetitions"])
            if not given["as_json"]:
                click.echo(f"{each.name}: {_headline(each, result['workloads'][each.name])}", err=True)
        if given["profile"]:
            # The last workload: a trace of all of them would be larger than any viewer takes.
            with profiled(llm, given["profile"]):
                run(llm, sized[chosen[-1].name])
    if given["output_json"]:
        write_json(given["output_json"], result)
    if given["as_json"]:
        click.echo(json.dumps(result, indent=1, default=str))
    else:
        show(result)


def with_shape(given: dict[str, Any]) -> dict[str, Any]:
    """Return the command's arguments with what ``--shape`` and the published numbers imply; the user's word comes first.

    Raises:
        ConfigError: for a shape beside a model, or one that does not exist.
    """
    if (shape := given.pop("shape")) is None:
        return given
    if given.get("model") is not None:
        raise ConfigError(f"--shape {shape} and --model {given['model']} are both given; leave one out")
    folder(shape)
    implied = {"model": PREFIX + shape, **SETTINGS, **_DEFAULTS}
    return {**given, **{name: value for name, value in implied.items() if given.get(name) is None}}


def run(llm: LLM, loads: Sequence[Load]) -> tuple[float, list[Any]]:
    """Run requests at once on an empty prefix cache; return the seconds they took and their outputs.

    Raises:
        RuntimeError: when a request got fewer tokens than were asked for: it did less work.
    """
    params = [
        SamplingParams(temperature=0.0, max_tokens=load.output_len, ignore_eos=True, detokenize=False) for load in loads
    ]
    llm.reset_prefix_cache()
    begin = time.perf_counter()
    outputs = llm.generate([{"prompt_token_ids": load.prompt} for load in loads], params, use_tqdm=False)
    seconds = time.perf_counter() - begin
    for load, output in zip(loads, outputs, strict=True):
        if len(output.outputs[0].token_ids) != load.output_len:
            raise RuntimeError(f"{len(output.outputs[0].token_ids)} of {load.output_len} tokens came")
    return seconds, outputs


def _sized(each: Workload, llm: LLM, given: dict[str, Any]) -> list[Load]:
    loads = each.generate(llm.info.vocab_size, given["workload_seed"])[: given["requests"]]
    if given["scale"] != 1.0:
        loads = [scaled(load, given["scale"]) for load in loads]
    longest = max(len(load.prompt) + load.output_len for load in loads)
    if longest > llm.info.max_model_len:
        fits = llm.info.max_model_len / longest * given["scale"]
        raise ConfigError(
            f"workload {each.name} has a request of {longest} tokens, the model takes {llm.info.max_model_len}; name other "
            f"workloads, raise --max-model-len, or shrink them with --scale {fits:.2g}"
        )
    return loads


def _warm(llm: LLM, scale: float) -> None:
    run(llm, [scaled(load, scale) for load in fixed(8, 256, 16, llm.info.vocab_size, seed=99)])


def measure(llm: LLM, loads: Sequence[Load], repetitions: int) -> dict[str, Any]:
    """Run requests at once, ``repetitions`` times; return medians, spread and every repetition.

    Times to the first token and per further token are medians over the requests of a repetition.
    """
    seconds, firsts, per_token = [], [], []
    for _ in range(repetitions):
        took, outputs = run(llm, loads)
        seconds.append(took)
        firsts.append(_median(_first(output) for output in outputs))
        per_token.append(_median(_per_token(output) for output in outputs))
    prompted, generated = sum(len(load.prompt) for load in loads), sum(load.output_len for load in loads)
    middle = float(np.median(seconds))
    return {
        "requests": len(loads),
        "in": prompted,
        "out": generated,
        "all_s": [round(value, 5) for value in seconds],
        "median_s": middle,
        "best_s": min(seconds),
        "spread": spread(seconds),
        "out_tok_s": generated / middle,
        "total_tok_s": (prompted + generated) / middle,
        "all_ttft_ms": [round(value * 1e3, 3) for value in firsts],
        "all_tpot_ms": [round(value * 1e3, 4) for value in per_token],
        "ttft_ms": float(np.median(firsts)) * 1e3,
        "tpot_ms": float(np.median(per_token)) * 1e3,
    }


def measured(llm: LLM, each: Workload, loads: Sequence[Load], repetitions: int | None) -> dict[str, Any]:
    """Measure a workload; one that counts latency is also run for its first token alone."""
    result = {"summary": each.summary, **measure(llm, loads, repetitions or each.repetitions)}
    if each.counts == "latency" and result["out"] > 1:
        # The published per-token times are differences of whole runs: with all tokens, and with the first one only.
        once = [run(llm, [Load(loads[0].prompt, 1)])[0] for _ in range(_FIRST_TOKEN_RUNS)]
        result["all_first_s"] = [round(value, 5) for value in once]
        result["ttft_ms"] = float(np.median(once)) * 1e3
        result["tpot_ms"] = (result["median_s"] - float(np.median(once))) / (result["out"] - 1) * 1e3
    return result


def _first(output: Any) -> float:
    return float(output.metrics.first_token_time - output.metrics.arrival_time)


def _per_token(output: Any) -> float:
    tokens = output.metrics.num_generation_tokens
    taken = float(output.metrics.last_token_time - output.metrics.first_token_time)
    return taken / (tokens - 1) if tokens > 1 else 0.0


def _median(values: Any) -> float:
    return float(np.median(list(values)))


def _headline(each: Workload, row: dict[str, Any]) -> str:
    told = {
        "latency": f"{row['ttft_ms']:.2f} ms to the first token, {row['tpot_ms']:.3f} ms per token",
        "output": f"{row['out_tok_s']:,.0f} output tokens/s",
        "total": f"{row['total_tok_s']:,.0f} tokens/s",
        "seconds": f"{row['median_s']:.3f} s",
    }
    return f"{told[each.counts]} (median of {len(row['all_s'])}, spread {row['spread']:.1%})"


def show(result: dict[str, Any]) -> None:
    """Print a result as a table."""
    out = console()
    chosen = result["chosen"]
    facts = [
        ("model", result["model"]),
        ("platform", f"{chosen.get('platform', '?')}: {chosen.get('device', '?')}"),
        ("start to ready", f"{result['startup_s']:.1f} s"),
        ("record", result["digest"][:16]),
    ]
    section(out, "Measured", ("WHAT", "IS"), facts)
    columns = ("WORKLOAD", "S, MEDIAN", "SPREAD", "OUTPUT TOK/S", "TOTAL TOK/S", "TTFT MS", "MS PER TOKEN")
    rows = (
        (
            name,
            f"{row['median_s']:.3f}",
            f"{row['spread']:.1%}",
            f"{row['out_tok_s']:,.0f}",
            f"{row['total_tok_s']:,.0f}",
            f"{row['ttft_ms']:.1f}",
            f"{row['tpot_ms']:.3f}" if row["out"] > row["requests"] else None,
        )
        for name, row in result["workloads"].items()
    )
    section(out, "Workloads", columns, rows)
