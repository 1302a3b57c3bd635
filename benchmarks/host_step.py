"""Host time of a decode step in the whole engine, without a device: prepared steps are replayed by doing nothing.

    python benchmarks/host_step.py [--rows 1,32,128,512] [--steps 180] [--profile]

Everything else is real: scheduler, plans, persistent batch, upload, result, outputs, ``LLM``. Prints microseconds of the
processor's time a step, which other work on the machine changes little.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from hardpoint import LLM, SamplingParams
from hardpoint.contract.device import GraphSupport
from hardpoint.contract.limits import BatchShape
from hardpoint.testing.reference_attention import ReferenceAttention, ReferencePlanner
from hardpoint.testing.tiny_models import make_tiny
from hardpoint_cpu.attention import CpuAttention
from hardpoint_cpu.device import CpuDevice


class Nothing:
    """Prepares a step by running it once; replays do nothing."""

    def __init__(self, sizes: list[int]) -> None:
        self._sizes = sizes

    def shapes(self, limits: Any) -> list[BatchShape]:
        return [BatchShape(tokens=n, requests=n, decode=True) for n in self._sizes]

    def first(self, limits: Any) -> list[BatchShape]:
        return self.shapes(limits)

    def prepare(self, step: Any, shape: BatchShape) -> Any:
        # Attention read what nothing had written; token 0 is as good as any.
        result = step().zero_()
        return lambda: result

    def reset(self) -> None:
        """Nothing was kept."""


class StaticPlanner(ReferencePlanner):
    graphs = GraphSupport.DECODE


class StaticAttention(ReferenceAttention):
    """Attends to whatever the bounds say; nobody looks at the tokens."""

    def planner(self, device: Any, spec: Any, block_size: int, limits: Any) -> StaticPlanner:
        return StaticPlanner()

    @classmethod
    def install(cls) -> None:
        """Take the place of the platform's own backend."""
        for name in ("reject", "layout", "planner", "layer", "block_sizes"):
            setattr(CpuAttention, name, getattr(cls, name))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", default="1,32,128,512")
    parser.add_argument("--steps", type=int, default=180)
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    sizes = [int(part) for part in options.rows.split(",")]
    torch.set_num_threads(1)
    CpuDevice.preparer = lambda self: Nothing(sizes)  # type: ignore[assignment,method-assign,return-value]
    StaticAttention.install()
    with tempfile.TemporaryDirectory() as folder:
        make_tiny("LlamaForCausalLM", Path(folder), seed=3)
        llm = LLM(
            folder, dtype="float32", skip_tokenizer_init=True, max_model_len=options.steps + 16,
            max_num_seqs=max(sizes), max_num_batched_tokens=max(64, max(sizes)), async_scheduling=True,
        )  # fmt: skip
        with llm:
            for rows in sizes:
                measure(llm, rows, options)


def measure(llm: LLM, rows: int, options: argparse.Namespace) -> None:
    params = SamplingParams(temperature=0.0, max_tokens=options.steps, ignore_eos=True, detokenize=False)
    prompts = [{"prompt_token_ids": [3 + i % 50, 4, 5]} for i in range(rows)]
    step, times = llm._step, []

    def timed(*args: Any) -> Any:
        start = time.process_time()
        found = step(*args)
        times.append(time.process_time() - start)
        return found

    llm._step = timed  # type: ignore[method-assign]
    llm.generate(prompts, params, use_tqdm=False)
    llm._step = step  # type: ignore[method-assign]
    # The first steps compute prompts and the last ones empty the batch.
    steady = sorted(times[len(times) // 4 : -len(times) // 8])
    middle, late = steady[len(steady) // 2], steady[len(steady) * 9 // 10]
    print(f"{rows:4d} rows: median {middle * 1e6:7.1f} us a step, nine of ten below {late * 1e6:7.1f}", flush=True)
    if options.profile:
        profile = cProfile.Profile()
        profile.runcall(llm.generate, prompts, params, use_tqdm=False)
        pstats.Stats(profile).sort_stats("tottime").print_stats(40)


if __name__ == "__main__":
    main()
