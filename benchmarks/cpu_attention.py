"""Decode attention on the CPU against memory bandwidth.

    python benchmarks/cpu_attention.py [--threads N] [--dtype bfloat16] [--repeat 20]

For each number of requests and context length: milliseconds of one layer's call (best of the repetitions, blocks shuffled
over a cache larger than the processor's own), the cache bytes that the requests own divided by that time, and the share of
what a plain sum over memory reads in the same process.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch

from hardpoint.config import EngineConfig
from hardpoint.contract.attention import AttentionLayerConfig, BatchView
from hardpoint.contract.kv import KVSpec
from hardpoint.contract.limits import BatchLimits
from hardpoint_cpu.attention import CpuAttention
from hardpoint_cpu.platform import CpuPlatform

BLOCK_SIZE = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=len(CpuPlatform().devices()))
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--heads", type=int, default=16)
    parser.add_argument("--kv-heads", type=int, default=8)
    parser.add_argument("--head-size", type=int, default=128)
    parser.add_argument("--requests", type=int, nargs="+", default=[1, 8, 16])
    parser.add_argument("--contexts", type=int, nargs="+", default=[128, 512, 2048, 4096])
    parser.add_argument("--repeat", type=int, default=20)
    arguments = parser.parse_args()
    device = CpuPlatform().open(0, EngineConfig.of(threads=arguments.threads))
    size = max(arguments.requests) * max(arguments.contexts)
    spec = KVSpec(num_kv_heads=arguments.kv_heads, head_size=arguments.head_size, dtype=arguments.dtype)
    backend = CpuAttention()
    layout = backend.layout(spec, BLOCK_SIZE, size // BLOCK_SIZE)
    cache = torch.randn(layout.shape).to(getattr(torch, layout.dtype))
    config = AttentionLayerConfig(
        layer=0,
        num_heads=arguments.heads,
        num_kv_heads=arguments.kv_heads,
        head_size=arguments.head_size,
        scale=arguments.head_size**-0.5,
    )
    planner = backend.planner(device, spec, BLOCK_SIZE, BatchLimits(max_tokens=8192, max_requests=256))
    layer = backend.layer(config, BLOCK_SIZE)
    ones = torch.ones(64 << 20)
    reading = ones.nbytes / best(ones.sum, arguments.repeat) / 1e9
    print(f"{device.info.name}, {device.info.arch}, {arguments.threads} threads, {arguments.dtype}")
    print(f"a sum over memory reads {reading:.1f} GB/s")
    print("requests  context  plan ms  layer ms   GB/s  share")
    with torch.inference_mode():
        for requests in arguments.requests:
            for context in arguments.contexts:
                view = decode_batch(requests, context, size // BLOCK_SIZE)
                q = torch.randn(requests, arguments.heads, arguments.head_size).to(cache.dtype)
                plan = planner.plan(view)
                planning = best(lambda v=view: planner.plan(v), 3)
                taken = best(lambda q=q, p=plan: layer.forward(q, cache, p, None), arguments.repeat)
                rate = requests * context * spec.token_bytes / taken / 1e9
                print(
                    f"{requests:8d} {context:8d} {planning * 1e3:8.3f} {taken * 1e3:9.3f} {rate:6.1f} {rate / reading:6.0%}"
                )


def decode_batch(requests: int, context: int, blocks: int) -> BatchView:
    """Return a batch of decodes whose blocks lie anywhere in the cache."""
    width = context // BLOCK_SIZE
    table = np.random.default_rng(0).permutation(blocks)[: requests * width].reshape(requests, width).astype(np.int32)
    start, lengths = np.arange(requests + 1, dtype=np.int32), np.full(requests, context, np.int32)
    return BatchView(
        num_requests=requests,
        num_decodes=requests,
        num_tokens=requests,
        query_start=torch.from_numpy(start),
        query_start_host=start,
        seq_lens=torch.from_numpy(lengths),
        seq_lens_host=lengths,
        block_table=torch.from_numpy(table),
        block_table_host=table,
        slots=torch.from_numpy(table[:, -1].astype(np.int64) * BLOCK_SIZE + BLOCK_SIZE - 1),
        max_query_len=1,
        max_seq_len=context,
        block_size=BLOCK_SIZE,
    )


def best(body: Callable[[], object], repeat: int) -> float:
    """Return the seconds of the fastest of ``repeat`` calls, after one that is not counted."""
    body()
    times = []
    for _ in range(repeat):
        began = time.perf_counter()
        body()
        times.append(time.perf_counter() - began)
    return min(times)


if __name__ == "__main__":
    main()
