"""Sampling and the two ends of a decode step on a GPU: ours, the reference in plain torch, and the floor.

    python benchmarks/gpu/sampling.py [--rows 1,32,128,512] [--vocab 128256] [--dtype bfloat16] [--json FILE]

Logits are normally distributed with the given deviations (1: flat, 4: steep), temperature 0.8. Ten calls run from one CUDA
graph; the median of five replays counts. The floor reads the logits once at the bandwidth given.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import torch

from hardpoint.ops import OPS
from hardpoint_triton.ops import OPS as BODIES

CALLS: Final = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="1,32,128,512")
    parser.add_argument("--vocab", type=int, default=128256)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--deviations", default="1,4")
    parser.add_argument("--bandwidth", type=float, default=4.2e12, help="bytes a second")
    parser.add_argument(
        "--no-reference", action="store_true", help="leave out the reference, which takes most of the time"
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found = []
    for rows in map(int, options.rows.split(",")):
        for deviation in map(float, options.deviations.split(",")):
            logits = (torch.randn(rows, options.vocab, device="cuda") * deviation).to(getattr(torch, options.dtype))
            floor = logits.nbytes / options.bandwidth * 1e6
            for label, name, args in calls(logits):
                ours = microseconds(lambda name=name, args=args: BODIES[name](*args))
                theirs = (
                    None
                    if options.no_reference
                    else microseconds(lambda name=name, args=args: OPS[name].reference(*args))
                )
                found.append({"rows": rows, "deviation": deviation, "call": label, "us": ours, "reference_us": theirs,
                              "floor_us": floor})  # fmt: skip
                beside = "" if theirs is None else f"  reference {theirs:9.1f}"
                print(
                    f"{rows:4d} x {deviation:3.1f} {label:32s} {ours:8.1f} us{beside}  floor {floor:6.1f}", flush=True
                )
    if options.json:
        options.json.write_text(json.dumps({"device": torch.cuda.get_device_name(), "results": found}, indent=1))


def calls(logits: torch.Tensor) -> Iterator[tuple[str, str, tuple[Any, ...]]]:
    """Yield (label, op, arguments)."""
    rows, vocab = logits.shape

    def each(value: float, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.full((rows,), value, dtype=dtype, device="cuda")

    uniform = torch.rand(rows, dtype=torch.float64, device="cuda")
    top_p, top_k, min_p = each(0.9, torch.float64), each(50, torch.int64), each(0.05)
    yield "greedy", "best_token", (logits,)
    yield "temperature", "sample_full", (logits, uniform, each(0.8), None, None)
    yield "temperature, top-p", "sample_full", (logits, uniform, each(0.8), None, top_p)
    yield "temperature, min-p, top-p", "sample_full", (logits, uniform, each(0.8), min_p, top_p)
    yield "temperature, top-k 50, top-p", "sample_top_k", (logits, uniform, each(0.8), None, top_p, top_k, 128)
    wide = logits.float()
    yield "5 log-probabilities", "top_logprobs", (wide, top_k, 5)
    seen = torch.zeros((rows, vocab), dtype=torch.bool, device="cuda")
    counts = torch.zeros((rows, vocab), dtype=torch.int32, device="cuda")
    some = torch.arange(rows, device="cuda")
    yield "penalties", "apply_penalties", (wide, some, seen, counts, min_p, min_p, each(1.1))


@torch.inference_mode()
def microseconds(call: Callable[[], object]) -> float:
    """Return the time of one call in a graph."""
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(2):
            call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(CALLS):
            call()
    graph.replay()
    times = []
    for _ in range(5):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) * 1e3 / CALLS)
    return statistics.median(times)


if __name__ == "__main__":
    main()
