"""Decode steps as graphs of ``torch.cuda`` (CUDA, HIP)."""

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
        self._device = device
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
        """Return the largest, which serves every number of rows until better ones are there, then powers of two."""
        powers = [size for size in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512) if size < limits.max_requests]
        return [_decodes(size) for size in (limits.max_requests, *powers)]

    def prepare(self, step: Callable[[], T], shape: BatchShape) -> Callable[[], T]:
        """Capture ``step`` after one run of it, which compiles kernels and gives libraries their workspaces.

        Most captures would do without that run; but what a capture does not bear ruins more than the capture, since
        PyTorch's allocator and generators then take it for under way.

        Raises:
            torch.cuda.OutOfMemoryError: when memory does not suffice; nothing is left of the attempt.
            RuntimeError: when the step cannot be captured.
        """
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            step()
            graph, result = self._capture(step)
        torch.cuda.current_stream().wait_stream(self._stream)
        self._graphs.append(graph)
        if isinstance(result, torch.Tensor):
            result = cast("T", _borrowed(result))

        def replay() -> T:
            graph.replay()
            return result

        return replay

    def _capture(self, step: Callable[[], T]) -> tuple[torch.cuda.CUDAGraph, T]:
        graph = torch.cuda.CUDAGraph()
        # torch.cuda.graph() would also wait for the device, collect garbage and give all cached memory back.
        graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
        try:
            result = step()
        except BaseException:
            self._abandon(graph)
            raise
        graph.capture_end()
        return graph, result

    def _abandon(self, graph: torch.cuda.CUDAGraph) -> None:
        """End a capture in which something failed."""
        try:
            graph.capture_end()
        except RuntimeError:
            # An invalid capture ends with an error before the allocator hears of it, which would go on waiting for it.
            with contextlib.suppress(RuntimeError):
                torch._C._cuda_endAllocateToPool(self._device.index or 0, self._pool)  # type: ignore[attr-defined]
            self._pool = torch.cuda.graph_pool_handle()

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
