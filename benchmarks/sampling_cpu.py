"""Time of one sampling step on the CPU, per batch size and kind of request.

Run ``python benchmarks/sampling_cpu.py [--vocab 151936] [--threads 2]``. Prints milliseconds, the best of several steps;
the last line is PyTorch's plain way for top-k and top-p: sort, mask, softmax, multinomial.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch

from hardpoint.contract.device import Capabilities, DeviceInfo
from hardpoint.contract.step import RowStart
from hardpoint.ops import OpTable
from hardpoint.params import SamplingParams
from hardpoint.runner.sampling import Sampler
from hardpoint_cpu.device import CpuDevice

KINDS: dict[str, SamplingParams] = {
    "greedy": SamplingParams(temperature=0.0),
    "temperature": SamplingParams(temperature=0.8),
    "min-p 0.05": SamplingParams(min_p=0.05),
    "top-k 50": SamplingParams(top_k=50),
    "top-p 0.95": SamplingParams(top_p=0.95),
    "top-k 50, top-p 0.95": SamplingParams(top_k=50, top_p=0.95, temperature=0.7),
    "greedy, penalties": SamplingParams(temperature=0.0, presence_penalty=0.5, repetition_penalty=1.1),
    "greedy, logprobs 5": SamplingParams(temperature=0.0, logprobs=5),
}


def milliseconds(run: Callable[[], object], repeats: int) -> float:
    """Return the least time of a run."""
    best = float("inf")
    for _ in range(repeats + 1):
        begin = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - begin)
    return best * 1e3


def step(params: SamplingParams, logits: torch.Tensor, device: CpuDevice) -> Callable[[], object]:
    """Return a function that samples for a batch of equal requests."""
    batch, vocab = logits.shape
    sampler = Sampler(batch, vocab, device, OpTable())
    prompt = np.arange(200, dtype=np.int32)
    for row in range(batch):
        start = RowStart(
            row=row,
            handle=row,
            token_ids=prompt,
            num_prompt=200,
            num_computed=0,
            blocks=(),
            params=params.replace(seed=row),
        )
        sampler.start(start)
    rows, lengths = np.arange(batch, dtype=np.int32), np.full(batch, 200, np.int32)
    return lambda: sampler.sample(logits, rows, lengths)


def plain(logits: torch.Tensor) -> torch.Tensor:
    """Top-k 50 and top-p 0.95 the usual way."""
    ascending, order = logits.sort(-1)
    ascending[:, :-50] = -torch.inf
    ascending[ascending.softmax(-1).cumsum(-1) <= 0.05] = -torch.inf
    return order.gather(-1, ascending.softmax(-1).multinomial(1))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vocab", type=int, default=151_936)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    info = DeviceInfo(index=0, name="host", uuid="", arch="any", total_bytes=None)
    device = CpuDevice(info, Capabilities(), threads=args.threads, ranks=1)
    print(f"{'ms per step, batch':24}" + "".join(f"{batch:>10}" for batch in args.batches))
    logits = {batch: torch.randn(batch, args.vocab) * 3 for batch in args.batches}
    for name, params in KINDS.items():
        times = [milliseconds(step(params, logits[batch], device), max(2, 40 // batch)) for batch in args.batches]
        print(f"{name:24}" + "".join(f"{value:10.2f}" for value in times))
    times = [milliseconds(lambda batch=batch: plain(logits[batch]), 1) for batch in args.batches]  # type: ignore[misc]
    print(f"{'plain PyTorch':24}" + "".join(f"{value:10.2f}" for value in times))


if __name__ == "__main__":
    main()
