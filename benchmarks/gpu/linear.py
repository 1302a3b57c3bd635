"""Linear layers of three models against their ceilings.

    python benchmarks/gpu/linear.py [--kernel triton] [--rows 1,16,8192] [--models llama-8b] [--json FILE]

Weights are rotated so that none is still in the L2 cache, many calls run from one CUDA graph, and the median of five
replays counts. A product's floor is the longer of its bytes at the device's read bandwidth and its operations at the rate
that cuBLAS reaches on large products; both ceilings are measured first.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import torch

from hardpoint.contract.quant import PLAIN, Fusion, NormSpec
from hardpoint_cuda.linear import CudaLinear
from hardpoint_triton.linear import TritonLinear

NORM: Final = NormSpec(eps=1e-6)
#: model -> layer -> (output features, input features, what surrounds the product).
LAYERS: Final[dict[str, dict[str, tuple[int, int, Fusion]]]] = {
    "llama-8b": {
        "qkv": (6144, 4096, Fusion(norm=NORM)),
        "out": (4096, 4096, Fusion(residual=True)),
        "gate_up": (28672, 4096, Fusion(norm=NORM, activation="silu_mul")),
        "down": (4096, 14336, Fusion(residual=True)),
        "head": (128256, 4096, Fusion(norm=NORM)),
    },
    "qwen3-0.6b": {
        "qkv": (4096, 1024, Fusion(norm=NORM)),
        "out": (1024, 2048, Fusion(residual=True)),
        "gate_up": (6144, 1024, Fusion(norm=NORM, activation="silu_mul")),
        "down": (1024, 3072, Fusion(residual=True)),
        "head": (151936, 1024, Fusion(norm=NORM)),
    },
    "qwen3-30b-a3b": {
        "qkv": (5120, 2048, Fusion(norm=NORM)),
        "out": (2048, 4096, Fusion(residual=True)),
        "router": (128, 2048, PLAIN),
        "head": (151936, 2048, Fusion(norm=NORM)),
    },
}
KERNELS: Final[dict[str, type[TritonLinear]]] = {"cuda": CudaLinear, "triton": TritonLinear}
#: More rows than this never meet a head.
HEAD_ROWS: Final = 512
#: Bytes that the weights of one measurement should exceed, several times the L2 cache.
COLD: Final = 300_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """Times in microseconds: ours with its fusion, the bare product by cuBLAS, and the floor of the bare product."""

    model: str
    layer: str
    out_features: int
    in_features: int
    rows: int
    ours: float
    cublas: float
    floor: float


def graph_time(call: Callable[[int], object], calls: int) -> float:
    """Return microseconds a call, ``call(i)`` being replayed for ``i`` in ``range(calls)`` from one graph."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        call(0)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for i in range(calls):
            call(i)
    graph.replay()
    times = []
    for _ in range(5):
        start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        stop.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(stop) * 1e3 / calls)
    return statistics.median(times)


def normal(*shape: int) -> torch.Tensor:
    """Return bfloat16 noise: zeros would run faster than data."""
    return torch.randn(shape, device="cuda", dtype=torch.bfloat16)


def ceilings() -> tuple[float, float]:
    """Return the bytes a second that a sum over 1 GB reads and the operations a second of an 8,192 cubed product."""
    data = torch.randint(0, 255, (2**30 // 4,), device="cuda", dtype=torch.int32)
    read = data.nbytes / graph_time(lambda i: data.max(), 4) * 1e6
    a, b = normal(8192, 8192), normal(8192, 8192)
    rate = 2 * 8192**3 / graph_time(lambda i: a @ b, 4) * 1e6
    return read, rate


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer's shape and as many copies of its weight as keep the cache cold."""

    out_features: int
    in_features: int
    fusion: Fusion
    copies: int
    weights: list[Mapping[str, torch.Tensor]]

    def time(self, kernel: TritonLinear, rows: int) -> tuple[float, float]:
        """Return microseconds of our product with its fusion and of cuBLAS's bare one."""
        x = normal(rows, self.in_features)
        norm_weight = normal(self.in_features) if self.fusion.norm else None
        residual = normal(rows, self.out_features) if self.fusion.residual else None

        def ours(i: int) -> object:
            packed = self.weights[i % self.copies]
            if self.fusion == PLAIN:
                return kernel.apply(x, packed, None)
            return kernel.apply_fused(x, packed, None, self.fusion, norm_weight, residual)

        def bare(i: int) -> object:
            return torch.nn.functional.linear(x, self.weights[i % self.copies]["weight"])

        calls = 2 * self.copies if rows <= 512 else 6
        return graph_time(ours, calls), graph_time(bare, calls)


def measure(kernel: TritonLinear, rows: list[int], models: list[str], read: float, rate: float) -> list[Result]:
    """Return the results of all layers; weights are made once for all numbers of rows."""
    results = []
    for model in models:
        for name, (out, columns, fusion) in LAYERS[model].items():
            copies = max(2, min(32, -(-COLD // (2 * out * columns))))
            weights = [kernel.pack({"weight": normal(out, columns)}) for _ in range(copies)]
            layer = Layer(out, columns, fusion, copies, weights)
            for count in rows:
                if name == "head" and count > HEAD_ROWS:
                    continue
                ours, cublas = layer.time(kernel, count)
                moved = 2 * (out * columns + count * (out + columns))
                floor = max(moved / read, 2 * count * out * columns / rate) * 1e6
                results.append(
                    Result(
                        model=model, layer=name, out_features=out, in_features=columns, rows=count, ours=ours,
                        cublas=cublas, floor=floor,
                    )
                )  # fmt: skip
                print(line(results[-1]), flush=True)
    return results


def line(result: Result) -> str:
    """Return a row of the table."""
    shape = f"{result.in_features}→{result.out_features}"
    return (
        f"{result.model:14} {result.layer:8} {shape:>13} {result.rows:5} rows  ours {result.ours:8.1f}  "
        f"cuBLAS {result.cublas:8.1f}  floor {result.floor:8.1f} µs  ours/floor {result.ours / result.floor:5.2f}"
    )


def main() -> None:
    """Measure, print a table, write JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kernel", choices=KERNELS, default="triton")
    parser.add_argument("--rows", default="1,2,4,8,16,32,64,128,256,512,2048,8192")
    parser.add_argument("--models", default=",".join(LAYERS))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    read, rate = ceilings()
    print(
        f"{torch.cuda.get_device_name()}: reads {read / 1e12:.2f} TB/s, products {rate / 1e12:.0f} TFLOP/s", flush=True
    )
    rows = [int(count) for count in options.rows.split(",")]
    results = measure(KERNELS[options.kernel](), rows, options.models.split(","), read, rate)
    if options.json:
        record = {
            "device": torch.cuda.get_device_name(),
            "kernel": options.kernel,
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "read_bytes_per_second": read,
            "operations_per_second": rate,
            "results": [asdict(result) for result in results],
        }
        options.json.write_text(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
