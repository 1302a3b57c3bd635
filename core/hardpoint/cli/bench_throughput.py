"""``hardpoint bench throughput``: all requests at once."""

from __future__ import annotations

import json
import time
from typing import Any

import click

from hardpoint.cli.measure import machine, write_json
from hardpoint.cli.options import SettingsCommand, config_from, engine_options
from hardpoint.cli.profiling import PROFILE, profiled
from hardpoint.cli.workload import LENGTH, RATIO_HELP, random_loads
from hardpoint.engine.frontend import open_engine
from hardpoint.llm import LLM
from hardpoint.params import SamplingParams


@click.command(cls=SettingsCommand)
@click.option("--num-prompts", type=LENGTH, default=1000, show_default=True)
@click.option("--input-len", "--random-input-len", type=LENGTH, default=1024, show_default=True)
@click.option("--output-len", "--random-output-len", type=LENGTH, default=128, show_default=True)
@click.option("--random-range-ratio", default=0.0, show_default=True, help=RATIO_HELP)
@click.option("--n", type=LENGTH, default=1, show_default=True, help="Sequences per prompt.")
@click.option("--num-warmups", type=int, default=1, show_default=True, help="Requests before the clock runs.")
@PROFILE
@click.option("--output-json", help="Write the result to this file.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@engine_options(model_argument=True)
def throughput(**given: Any) -> None:
    """Run many random prompts at once; report requests and tokens per second."""
    config = config_from(given)
    with LLM.over(*open_engine(config, in_process=True)) as llm:
        lengths = (given["input_len"], given["output_len"], llm.info.vocab_size)
        ratio, seed = given["random_range_ratio"], config.model.seed
        loads = random_loads(given["num_prompts"], *lengths, ratio=ratio, seed=seed)
        warm = random_loads(given["num_warmups"], *lengths, ratio=ratio, seed=seed + 1)
        if warm:
            _run(llm, warm, 1, show=False)
            llm.reset_prefix_cache()
        begin = time.perf_counter()
        outputs = _run(llm, loads, given["n"], show=not given["as_json"])
        elapsed = time.perf_counter() - begin
        model = llm.info.model
        if given["profile"]:
            llm.reset_prefix_cache()
            with profiled(llm, given["profile"]):
                _run(llm, loads, given["n"], show=False)
    prompted = sum(len(output.prompt_token_ids) for output in outputs)
    generated = sum(len(completion.token_ids) for output in outputs for completion in output.outputs)
    result = {
        **machine(),
        "model": model,
        "elapsed_time": elapsed,
        "num_requests": len(loads),
        "total_num_tokens": prompted + generated,
        "prompt_tokens": prompted,
        "output_tokens": generated,
        "requests_per_second": len(loads) / elapsed,
        "tokens_per_second": (prompted + generated) / elapsed,
        "output_tokens_per_second": generated / elapsed,
    }
    if given["output_json"]:
        write_json(given["output_json"], result)
    if given["as_json"]:
        click.echo(json.dumps(result, indent=1))
    else:
        click.echo(
            f"Throughput: {result['requests_per_second']:.2f} requests/s, {result['tokens_per_second']:.2f} total "
            f"tokens/s, {result['output_tokens_per_second']:.2f} output tokens/s\n"
            f"Total num prompt tokens: {prompted}\nTotal num output tokens: {generated}"
        )


def _run(llm: LLM, loads: Any, n: int, *, show: bool) -> Any:
    prompts = [{"prompt_token_ids": load.prompt} for load in loads]
    params = [
        SamplingParams(n=n, temperature=0.0, max_tokens=load.output_len, ignore_eos=True, detokenize=False)
        for load in loads
    ]
    return llm.generate(prompts, params, use_tqdm=show)
