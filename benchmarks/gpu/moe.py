"""Layers of experts against their ceilings: ``python benchmarks/gpu/moe.py [--json FILE] [--rows 1,16,8192]``.

A call is a whole layer: norm, router, experts, residual. Each replay's calls go through weights that are no longer in the
L2 cache, and each call has tokens of its own, which choose as random tokens do. A layer's floor is the longer of its bytes
(the experts that its tokens chose, once each) at the device's read bandwidth and its operations at the rate that cuBLAS
reaches on large products; both ceilings are measured first.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch
from linear import ceilings, graph_time, normal

from hardpoint_triton.moe import routed_moe
from hardpoint_triton.moe_routing_kernels import topk_router

#: Copies of a layer's experts: any one of them is larger than the L2 cache many times over.
LAYERS: Final = 3


@dataclass(frozen=True, slots=True)
class Shape:
    """A published model's layer of experts; ``options`` are those of the op."""

    experts: int
    inner: int
    hidden: int
    k: int
    options: tuple[tuple[str, Any], ...] = ()
    biases: bool = False


SHAPES: Final = {
    "qwen3-30b-a3b": Shape(128, 768, 2048, 8, (("renormalize", True), ("round_weights", True))),
    "mixtral-8x7b": Shape(8, 14336, 4096, 2, (("renormalize", True),)),
    "gpt-oss-20b": Shape(
        32,
        2880,
        2880,
        4,
        (("renormalize", False), ("score", "softmax_of_chosen"), ("activation", "swiglu_oai"), ("round_weights", True)),
        biases=True,
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """Microseconds of one layer and of its floor; ``chosen`` experts of a layer got tokens."""

    model: str
    rows: int
    chosen: float
    ours: float
    floor: float
    bytes: float
    operations: float


def measure(model: str, shape: Shape, rows: list[int], read: float, rate: float) -> list[Result]:
    """Return a result for every number of rows."""
    gate_up = [normal(shape.experts, 2 * shape.inner, shape.hidden) for _ in range(LAYERS)]
    down = [normal(shape.experts, shape.hidden, shape.inner) for _ in range(LAYERS)]
    router, norm = normal(shape.experts, shape.hidden), normal(shape.hidden)
    options: dict[str, Any] = dict(shape.options)
    if shape.biases:
        options |= {
            "gate_up_bias": normal(shape.experts, 2 * shape.inner),
            "down_bias": normal(shape.experts, shape.hidden),
            "router_bias": normal(shape.experts),
        }
    results = []
    for count in rows:
        calls = 24 if count <= 8 else 6
        inputs = [normal(count, shape.hidden) for _ in range(calls)]

        def layer(i: int, inputs: list[torch.Tensor] = inputs) -> object:
            x, at = inputs[i % len(inputs)], i % LAYERS
            return routed_moe(
                x, router, gate_up[at], down[at], k=shape.k, norm_weight=norm, eps=1e-6, residual=x, **options
            )

        ours = graph_time(layer, calls)
        chosen = sum(_chosen(x, router, norm, options.get("router_bias"), shape.k) for x in inputs) / calls
        moved = chosen * 3 * shape.inner * shape.hidden * 2 + 2 * (router.nbytes // 2 + 2 * count * shape.hidden)
        work = 2 * count * shape.k * 3 * shape.inner * shape.hidden
        floor = max(moved / read, work / rate) * 1e6
        results.append(
            Result(model=model, rows=count, chosen=chosen, ours=ours, floor=floor, bytes=moved, operations=work)
        )
        print(line(results[-1]), flush=True)
    return results


def _chosen(x: torch.Tensor, router: torch.Tensor, norm: torch.Tensor, bias: torch.Tensor | None, k: int) -> int:
    normed = torch.nn.functional.rms_norm(x, (x.shape[1],), norm, 1e-6)
    logits = torch.nn.functional.linear(normed, router, bias)
    return int(topk_router(logits, k, False)[1].unique().numel())


def line(result: Result) -> str:
    """Return a row of the table."""
    return (
        f"{result.model:14} {result.rows:5} rows {result.chosen:6.1f} experts  ours {result.ours:8.1f}  floor "
        f"{result.floor:8.1f} µs  ours/floor {result.ours / result.floor:5.2f}  {result.bytes / result.ours / 1e6:5.2f} TB/s  "
        f"{result.operations / result.ours / 1e6:5.0f} TFLOP/s"
    )


def main() -> None:
    """Measure, print a table, write JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", default="1,2,4,8,16,32,64,128,256,512,2048,8192")
    parser.add_argument("--models", default=",".join(SHAPES))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    read, rate = ceilings()
    print(
        f"{torch.cuda.get_device_name()}: reads {read / 1e12:.2f} TB/s, products {rate / 1e12:.0f} TFLOP/s", flush=True
    )
    rows, results = [int(count) for count in options.rows.split(",")], []
    for model in options.models.split(","):
        results += measure(model, SHAPES[model], rows, read, rate)
        torch.cuda.empty_cache()
    if options.json:
        record = {
            "device": torch.cuda.get_device_name(),
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "read_bytes_per_second": read,
            "operations_per_second": rate,
            "results": [asdict(result) for result in results],
        }
        options.json.write_text(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
