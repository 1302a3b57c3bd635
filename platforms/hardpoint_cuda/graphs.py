"""Decode steps as CUDA graphs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import torch

from hardpoint.contract.limits import BatchLimits, BatchShape

T = TypeVar("T")


class GraphPreparer:
    """Captures a step once per number of rows.

    All graphs share one pool of memory, results included: only one runs at a time, and what one leaves behind is read
    before the next one runs. So they take together what the largest of them takes alone, provided that it comes first.

    Args:
        device: the GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._pool = torch.cuda.graph_pool_handle()
        # One stream for all captures, so that libraries keep one workspace for it.
        self._stream = torch.cuda.Stream(device)
        self._graphs: list[torch.cuda.CUDAGraph] = []

    def shapes(self, limits: BatchLimits) -> Sequence[BatchShape]:
        """Return 1, 2, 4, then multiples of 8 up to 128, of 16 up to 256, of 32 above."""
        sizes = [1, 2, 4, *range(8, 128, 8), *range(128, 256, 16), *range(256, limits.max_requests + 32, 32)]
        wanted = [size for size in sizes if size < limits.max_requests]
        return [_decodes(size) for size in (*wanted, limits.max_requests)]

    def first(self, limits: BatchLimits) -> Sequence[BatchShape]:
        """Return the largest, which serves every number of rows until better ones are there, and one row."""
        return [_decodes(size) for size in dict.fromkeys((limits.max_requests, 1))]

    def prepare(self, step: Callable[[], T], shape: BatchShape) -> Callable[[], T]:
        """Capture ``step`` after one run of it, which compiles kernels and gives libraries their workspaces.

        Raises:
            torch.cuda.OutOfMemoryError: when memory does not suffice; nothing is left of the attempt.
        """
        graph = torch.cuda.CUDAGraph()
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            step()
            # torch.cuda.graph() would also wait for the device, collect garbage and give all cached memory back.
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                result = step()
            except BaseException:
                with contextlib.suppress(RuntimeError):
                    graph.capture_end()
                raise
            graph.capture_end()
        torch.cuda.current_stream().wait_stream(self._stream)
        self._graphs.append(graph)
        if isinstance(result, torch.Tensor):
            result = cast("T", _borrowed(result))

        def replay() -> T:
            graph.replay()
            return result

        return replay

    def reset(self) -> None:
        """Drop all graphs and their pool."""
        for graph in self._graphs:
            graph.reset()
        self._graphs.clear()
        self._pool = torch.cuda.graph_pool_handle()


def _decodes(size: int) -> BatchShape:
    return BatchShape(tokens=size, requests=size, decode=True)


def _borrowed(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor at the same place that does not keep the memory from the next capture."""
    flat = tensor.contiguous().view(torch.uint8) if tensor.dim() else tensor.reshape(1).view(torch.uint8)
    plain: torch.Tensor = torch.as_tensor(_Place(flat.data_ptr(), flat.shape), device=tensor.device)
    return plain.view(tensor.dtype).view(tensor.shape)


class _Place:
    """An address as libraries exchange it."""

    def __init__(self, address: int, shape: Sequence[int]) -> None:
        self.__cuda_array_interface__: dict[str, Any] = {
            "shape": tuple(shape),
            "typestr": "|u1",
            "data": (address, False),
            "strides": None,
            "version": 3,
        }
