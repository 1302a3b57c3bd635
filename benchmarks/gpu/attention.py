"""Attention backends against their ceilings: ``python benchmarks/gpu/attention.py [--json FILE] [--backends triton,cudnn]``.

One layer's work between its projections (rotation, write to the cache, attention) for whole prompts, continued chunks and
decodes, 128 to 32,768 tokens, 1 to 256 requests. Calls run from one CUDA graph, the median of five replays counts. The
floor is the longer of the bytes that must move at the device's read bandwidth and the attention's operations at the rate
that cuBLAS reaches on large products; both ceilings are measured first. A backend that is not installed, refuses, or cannot
be captured is reported with its reason.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, cast

import torch
from linear import ceilings, graph_time

from hardpoint.config import EngineConfig
from hardpoint.contract.attention import AttentionBackend, AttentionQuery
from hardpoint.contract.device import Device
from hardpoint.contract.errors import HardpointError
from hardpoint.contract.kv import DTYPE_BYTES
from hardpoint.plugins import Catalogue
from hardpoint.runner.attention_timing import uniform_call
from hardpoint_cuda.platform import CudaPlatform

#: model -> (query heads, key/value heads, head size)
HEADS: Final = {"llama-8b": (32, 8, 128), "qwen3-0.6b": (16, 8, 128), "qwen3-30b-a3b": (32, 4, 128)}
LENGTHS: Final = (128, 512, 1024, 4096, 32768)
REQUESTS: Final = (1, 8, 32, 128, 256)
#: Tokens of one step, and of a cache that a measurement may allocate.
STEP: Final = 8192
CACHE: Final = 2**20
#: Bytes that the caches of one measurement should exceed, several times the L2 cache, and how many caches there may be.
COLD: Final = 200_000_000
MOST_COPIES: Final = 16
#: Plans of a step before it is measured, for backends that prepare what comes again.
STEPS: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """Times in microseconds; ``error`` says why there is none."""

    model: str
    backend: str
    kv_dtype: str
    part: str
    requests: int
    context: int
    new: int
    time: float | None
    floor: float
    error: str = ""


def batches() -> list[tuple[str, int, int, int]]:
    """Return (part, requests, context, new tokens)."""
    found = [("decode", count, length, 1) for length in LENGTHS for count in REQUESTS if count * length <= CACHE]
    found += [("prefill", count, n, n) for n in LENGTHS for count in REQUESTS if count * n <= max(STEP, n)]
    found += [("chunked", 1, past + new, new) for new in (512, 2048, 8192) for past in (2048, 8192, 24576)]
    return [*found, ("chunked", 64, 2176, 128)]


def floor(query: AttentionQuery, requests: int, context: int, new: int, read: float, rate: float) -> float:
    """Return the microseconds that bytes or operations take, whichever is longer."""
    per_token = (query.num_heads + 2 * query.num_kv_heads) * query.head_size * DTYPE_BYTES[query.dtype]
    cached = 2 * query.num_kv_heads * query.head_size * DTYPE_BYTES[query.kv_dtype]
    heads_out = query.num_heads * query.head_size * DTYPE_BYTES[query.dtype]
    moved = requests * (context * cached + new * (per_token + heads_out))
    pairs = requests * new * (context - (new - 1) / 2)
    return max(moved / read, 4 * query.num_heads * query.head_size * pairs / rate) * 1e6


def measure(
    backend: AttentionBackend, device: Device, query: AttentionQuery, requests: int, context: int, new: int
) -> float:
    """Return microseconds a call, over as many caches as keep them out of the L2 cache."""
    spec_bytes = 2 * query.num_kv_heads * query.head_size * DTYPE_BYTES[query.kv_dtype]
    copies = max(1, min(MOST_COPIES, -(-COLD // (requests * context * spec_bytes))))
    calls = [uniform_call(backend, device, query, requests, context, new, steps=STEPS) for _ in range(copies)]
    for call in calls:
        call()
    return graph_time(lambda i: calls[i % copies](), 2 * copies)


def line(result: Result) -> str:
    """Return a row of the table."""
    shape = f"{result.requests:3} x {result.new:5} of {result.context:5}"
    if result.time is None:
        return f"{result.model:14} {result.backend:11} {result.part:8} {shape}  {result.error}"
    return (
        f"{result.model:14} {result.backend:11} {result.part:8} {shape}  {result.time:9.1f}  floor {result.floor:9.1f} µs"
        f"  {result.time / result.floor:5.2f}"
    )


def main() -> None:
    """Measure, print a table, write JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backends", default="cudnn,triton,flashinfer")
    parser.add_argument("--models", default=",".join(HEADS))
    parser.add_argument("--parts", default="prefill,chunked,decode")
    parser.add_argument("--kv-dtype", default="bfloat16")
    parser.add_argument("--block-size", type=int, default=16)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    catalogue, device = Catalogue(), CudaPlatform().open(0, EngineConfig.of())
    backends: dict[str, AttentionBackend] = {}
    for name in options.backends.split(","):
        try:
            backends[name] = cast("AttentionBackend", catalogue.create("attention_backends", name))
        except HardpointError as error:
            print(f"{name}: {error}", flush=True)
    read, rate = ceilings()
    name = torch.cuda.get_device_name()
    print(f"{name}: reads {read / 1e12:.2f} TB/s, products {rate / 1e12:.0f} TFLOP/s", flush=True)
    results = []
    for model in options.models.split(","):
        heads, kv_heads, size = HEADS[model]
        query = AttentionQuery(
            head_size=size, num_heads=heads, num_kv_heads=kv_heads, dtype="bfloat16", kv_dtype=options.kv_dtype,
            block_size=options.block_size, arch=device.info.arch,
        )  # fmt: skip
        for part, requests, context, new in batches():
            if part not in options.parts.split(","):
                continue
            least = floor(query, requests, context, new, read, rate)
            for of, backend in backends.items():
                time, why = None, "; ".join(backend.reject(query))
                if not why:
                    try:
                        time = measure(backend, device, query, requests, context, new)
                    except Exception as error:  # one backend's failure is a result of its own
                        why = f"{type(error).__name__}: {error}"
                results.append(
                    Result(
                        model=model, backend=of, kv_dtype=options.kv_dtype, part=part, requests=requests,
                        context=context, new=new, time=time, floor=least, error=why,
                    )
                )  # fmt: skip
                print(line(results[-1]), flush=True)
    if options.json:
        record = {
            "device": name,
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "read_bytes_per_second": read,
            "operations_per_second": rate,
            "results": [asdict(result) for result in results],
        }
        options.json.write_text(json.dumps(record, indent=1))
    device.close()


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
