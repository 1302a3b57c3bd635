"""A decode step's time by kernel, beside its floor.

    python benchmarks/gpu/step.py [--shape llama-8b] [--batches 1,32,128] [--context 1024] [--set quantization=fp8]

Two runs of a batch are profiled that differ in their number of steps only; the difference of their kernels' times, divided by
the difference in steps, is what a step spends in each kernel. What the wall clock has beyond that is the gap in which no
kernel runs. Prints ``STEP`` and JSON for each batch.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, Final

import floors
import torch
from arguments import add_settings, settings_of
from torch.profiler import ProfilerActivity, profile

from hardpoint import LLM, SamplingParams
from hardpoint.bench.workloads import Load, fixed

#: Part of a step -> what its kernels' names look like; the first match counts.
PARTS: Final = (
    ("attention", r"attend|attention|cascade|merge|flash|fmha|sdpa|split_kv|divide|^decode"),
    ("experts", r"moe|expert|route|router"),
    (
        "sampling and inputs",
        r"^_(keep|best|maxima|inputs|draw|top_k|penal)|sample|argmax|index|gather|memcpy|memset|elementwise",
    ),
    ("products", r"stream|row|gemm|gemv|nvjet|cutlass|splitk|cublas|scaled_mm|linear"),
    ("quantization", r"quant"),
    ("norm, rotation, cache write", r"norm|rope|rotat|write|silu|gelu|gate"),
)
_SHORT: Final = 8


def part_of(kernel: str) -> str:
    """Return the part of a step that a kernel belongs to."""
    name = kernel.lower()
    return next((part for part, pattern in PARTS if re.search(pattern, name)), "other")


def kernels(run: Callable[[], object]) -> dict[str, tuple[int, float]]:
    """Return kernel -> (launches, microseconds) of one call."""
    with profile(activities=[ProfilerActivity.CUDA]) as recorded:
        run()
        torch.cuda.synchronize()
    found: dict[str, list[float]] = defaultdict(lambda: [0, 0.0])
    for event in recorded.events():
        if event.device_type == torch.autograd.DeviceType.CUDA:
            entry = found[event.name]
            entry[0] += 1
            entry[1] += event.device_time
    return {name: (int(count), spent) for name, (count, spent) in found.items()}


def breakdown(llm: LLM, shape: str, batch: int, context: int, steps: int, cost: floors.Cost) -> dict[str, Any]:
    """Return a decode step's time by kernel and by part, in microseconds."""
    loads = fixed(batch, context, 1, llm.info.vocab_size)

    def run(tokens: int) -> Callable[[], float]:
        def call() -> float:
            begin = time.perf_counter()
            _generate(llm, loads, tokens)
            return time.perf_counter() - begin

        return call

    short, long = run(_SHORT), run(_SHORT + steps)
    # The prompts stay in the prefix cache, so both runs prefill next to nothing.
    walls = [(long() - short()) / steps * 1e6 for _ in range(4)]
    wall = sorted(walls[1:])[1]
    few, many = kernels(short), kernels(long)
    rows = []
    for name, (count, spent) in many.items():
        before = few.get(name, (0, 0.0))
        per_step, launches = (spent - before[1]) / steps, (count - before[0]) / steps
        if per_step > 0.05:
            rows.append({"kernel": name[:120], "part": part_of(name), "launches": round(launches, 2), "us": per_step})
    rows.sort(key=lambda row: -float(row["us"]))
    parts: dict[str, float] = defaultdict(float)
    for row in rows:
        parts[row["part"]] += row["us"]
    cached = batch * (context + _SHORT + steps // 2)
    floor = {"products": cost.products(batch, batch) * 1e6, "attention": cached * cost.kv_bytes / floors.READ * 1e6}
    return {
        "shape": shape,
        "batch": batch,
        "context": context,
        "wall_us": wall,
        "kernels_us": sum(parts.values()),
        "floor_us": sum(floor.values()),
        "parts_us": {name: round(value, 1) for name, value in sorted(parts.items(), key=lambda item: -item[1])},
        "floors_us": {name: round(value, 1) for name, value in floor.items()},
        "kernels": [{**row, "us": round(row["us"], 2)} for row in rows[:30]],
    }


def _generate(llm: LLM, loads: Sequence[Load], tokens: int) -> None:
    params = SamplingParams(temperature=0.0, max_tokens=tokens, ignore_eos=True, detokenize=False)
    llm.generate([{"prompt_token_ids": load.prompt} for load in loads], params, use_tqdm=False)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", default="llama-8b")
    parser.add_argument("--batches", default="1,32,128")
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=48)
    add_settings(parser)
    given = parser.parse_args(arguments)
    extra = settings_of(given.set)
    common = {"load_format": "dummy", "skip_tokenizer_init": True, "platform": "cuda", "max_model_len": 32768}
    cost = floors.Cost.of(
        given.shape,
        1 if extra.get("quantization") else 2,
        1 if "8" in str(extra.get("kv_cache_dtype", "")) else 2,
    )
    with LLM(f"shapes/{given.shape}", max_num_seqs=512, **{**common, **extra}) as llm:
        for batch in (int(part) for part in given.batches.split(",")):
            found = breakdown(llm, given.shape, batch, given.context, given.steps, cost)
            measured = time.strftime("%Y-%m-%d %H:%M", time.gmtime())
            print("STEP " + json.dumps({"settings": extra, "measured": measured, **found}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
