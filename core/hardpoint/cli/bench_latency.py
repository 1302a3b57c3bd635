"""``hardpoint bench latency``: one batch at a time, again and again."""

from __future__ import annotations

import json
import time
from typing import Any

import click
import numpy as np
from tqdm import trange

from hardpoint.cli.measure import machine, percentiles, summary, write_json
from hardpoint.cli.options import SettingsCommand, config_from, engine_options
from hardpoint.cli.profiling import PROFILE, profiled
from hardpoint.cli.workload import LENGTH, random_loads
from hardpoint.engine.frontend import open_engine
from hardpoint.llm import LLM
from hardpoint.params import SamplingParams

_PERCENTILES = (10, 25, 50, 75, 90, 99)


@click.command(cls=SettingsCommand)
@click.option("--input-len", type=LENGTH, default=32, show_default=True)
@click.option("--output-len", type=LENGTH, default=128, show_default=True)
@click.option("--batch-size", type=LENGTH, default=8, show_default=True)
@click.option("--n", type=LENGTH, default=1, show_default=True, help="Sequences per prompt.")
@click.option("--num-iters-warmup", type=int, default=3, show_default=True)
@click.option("--num-iters", type=LENGTH, default=10, show_default=True)
@PROFILE
@click.option("--output-json", help="Write the result to this file.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@engine_options(model_argument=True)
def latency(**given: Any) -> None:
    """Time one batch of random prompts from its start to its last token."""
    config = config_from(given)
    with LLM.over(*open_engine(config, in_process=True)) as llm:
        loads = random_loads(
            given["batch_size"],
            given["input_len"],
            given["output_len"],
            llm.info.vocab_size,
            seed=config.model.seed,
        )
        prompts = [{"prompt_token_ids": load.prompt} for load in loads]
        params = SamplingParams(
            n=given["n"], temperature=0.0, max_tokens=given["output_len"], ignore_eos=True, detokenize=False
        )
        totals, firsts, per_token = [], [], []
        for iteration in trange(given["num_iters_warmup"] + given["num_iters"], disable=given["as_json"]):
            llm.reset_prefix_cache()
            begin = time.monotonic()
            outputs = llm.generate(prompts, params, use_tqdm=False)
            total = time.monotonic() - begin
            if iteration < given["num_iters_warmup"]:
                continue
            totals.append(total)
            for times in (output.metrics for output in outputs):
                if times is None or times.first_token_time is None or times.last_token_time is None:
                    continue
                firsts.append(times.first_token_time - begin)
                if given["output_len"] > 1:
                    per_token.append((times.last_token_time - times.first_token_time) / (given["output_len"] - 1))
        if given["profile"]:
            llm.reset_prefix_cache()
            with profiled(llm, given["profile"]):
                llm.generate(prompts, params, use_tqdm=False)
        result = {
            **machine(),
            "model": llm.info.model,
            **{name: given[name] for name in ("input_len", "output_len", "batch_size", "n", "num_iters")},
            "avg_latency": float(np.mean(totals)),
            "latencies": totals,
            "percentiles": percentiles(totals, _PERCENTILES),
            **summary(firsts, "ttft", _PERCENTILES),
            **summary(per_token, "tpot", _PERCENTILES),
        }
    if given["output_json"]:
        write_json(given["output_json"], result)
    click.echo(json.dumps(result, indent=1) if given["as_json"] else _text(result))


def _text(result: dict[str, Any]) -> str:
    lines = [f"Avg latency: {result['avg_latency']:.4f} seconds"]
    lines += [f"{name[1:]}% percentile latency: {value:.4f} seconds" for name, value in result["percentiles"].items()]
    lines += [
        f"Median {short} (ms): {result[f'median_{name}_ms']:.2f}  (10%: {result[f'p10_{name}_ms']:.2f}, "
        f"90%: {result[f'p90_{name}_ms']:.2f})"
        for name, short in (("ttft", "time to first token"), ("tpot", "time per output token"))
    ]
    return "\n".join(lines)
