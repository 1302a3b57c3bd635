"""Decode steps as CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from hardpoint.contract.limits import BatchLimits, BatchShape

T = TypeVar("T")

#: Runs before a capture: the first one compiles kernels and fills caches, the second one settles the allocator.
_WARM_UPS = 2


class GraphPreparer:
    """Captures a step once per number of rows; all graphs share one memory pool, as only one runs at a time."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()
        self._graphs: list[torch.cuda.CUDAGraph] = []

    def shapes(self, limits: BatchLimits) -> Sequence[BatchShape]:
        """Return 1, 2, 4, then multiples of 8 up to 128, of 16 up to 256, of 32 above."""
        sizes = [1, 2, 4, *range(8, 128, 8), *range(128, 256, 16), *range(256, limits.max_requests + 32, 32)]
        wanted = [size for size in sizes if size < limits.max_requests]
        return [BatchShape(tokens=n, requests=n, decode=True) for n in (*wanted, limits.max_requests)]

    def first(self, limits: BatchLimits) -> Sequence[BatchShape]:
        return [BatchShape(tokens=1, requests=1, decode=True)]

    def prepare(self, step: Callable[[], T], shape: BatchShape) -> Callable[[], T]:
        """Capture ``step``."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_WARM_UPS):
                step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            result = step()
        self._graphs.append(graph)

        def replay() -> T:
            graph.replay()
            return result

        return replay

    def reset(self) -> None:
        self._graphs.clear()
