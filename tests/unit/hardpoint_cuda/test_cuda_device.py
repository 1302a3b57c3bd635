"""What of the CUDA device needs no GPU: which errors mean what, which GPU is meant, how a capture that fails ends."""

from __future__ import annotations

import itertools
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch

from hardpoint.contract.device import DeviceInfo
from hardpoint.contract.errors import ConfigError
from hardpoint.contract.limits import BatchLimits, BatchShape
from hardpoint_cuda import device as cuda_device
from hardpoint_cuda.device import CudaDevice
from hardpoint_triton import graphs
from hardpoint_triton.graphs import GraphPreparer


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("Triton Error [CUDA]: out of memory"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (RuntimeError("out of resource: shared memory, Required: 262144, Hardware limit: 232448"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_errors_that_mean_that_memory_ran_out(error: Exception, expected: bool) -> None:
    assert CudaDevice.__new__(CudaDevice).is_oom(error) is expected


def gpus(*uuids: str) -> tuple[DeviceInfo, ...]:
    return tuple(
        DeviceInfo(index=at, name="gpu", uuid=uuid, arch="sm90", total_bytes=1) for at, uuid in enumerate(uuids)
    )


def sees(monkeypatch: pytest.MonkeyPatch, managed: tuple[DeviceInfo, ...], *seen: str) -> None:
    monkeypatch.setattr(cuda_device.nvml, "devices", lambda: managed)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(seen))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda at: SimpleNamespace(uuid=seen[at]))


def test_a_gpu_is_found_by_its_identity_whatever_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    managed = gpus("GPU-aa", "GPU-bb", "GPU-cc")
    sees(monkeypatch, managed, "cc", "aa")
    assert [cuda_device.ordinal(info) for info in (managed[0], managed[2])] == [1, 0]
    with pytest.raises(ConfigError, match=r"does not see GPU 1 .*--device-ids"):
        cuda_device.ordinal(managed[1])


def test_the_only_gpu_is_meant_whatever_it_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    managed = gpus("GPU-aa")
    sees(monkeypatch, managed, "MIG-of-aa")
    assert cuda_device.ordinal(managed[0]) == 0


class Graph:
    """Counts what happens to a capture."""

    made: ClassVar[list[Graph]] = []

    def __init__(self) -> None:
        self.log: list[str] = []
        Graph.made.append(self)

    def capture_begin(self, **how: Any) -> None:
        self.log.append(how["capture_error_mode"])

    def capture_end(self) -> None:
        self.log.append("end")

    def replay(self) -> None:
        self.log.append("replay")

    def reset(self) -> None:
        self.log.append("reset")


@pytest.fixture
def preparer(monkeypatch: pytest.MonkeyPatch) -> GraphPreparer:
    """A preparer over graphs that only count."""
    Graph.made = []
    stream = SimpleNamespace(wait_stream=lambda other: None)
    for name, fake in {
        "graph_pool_handle": lambda: (0, 1),
        "Stream": lambda device: stream,
        "CUDAGraph": Graph,
        "current_stream": lambda: stream,
        "stream": lambda chosen: nullcontext(),
    }.items():
        monkeypatch.setattr(graphs.torch.cuda, name, fake)
    return GraphPreparer(torch.device("cpu"))


ONE = BatchShape(tokens=1, requests=1, decode=True)


def test_a_step_runs_once_before_it_is_captured(preparer: GraphPreparer) -> None:
    runs: list[int] = []
    replay = preparer.prepare(lambda: runs.append(1) or "result", ONE)
    assert len(runs) == 2
    assert [replay(), replay()] == ["result"] * 2
    assert Graph.made[0].log == ["thread_local", "end", "replay", "replay"]
    preparer.reset()
    assert Graph.made[0].log[-1] == "reset"


def fails(runs: list[int], at: int, error: Exception) -> Any:
    def step() -> str:
        runs.append(1)
        if len(runs) == at:
            raise error
        return "result"

    return step


def test_the_allocator_hears_of_the_end_of_an_invalid_capture(
    preparer: GraphPreparer, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[tuple[int, tuple[int, int]]] = []

    def invalid(self: Graph) -> None:
        raise RuntimeError("operation failed due to a previous error during capture")

    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", lambda at, pool: ended.append((at, pool)), raising=False)
    monkeypatch.setattr(Graph, "capture_end", invalid)
    monkeypatch.setattr(graphs.torch.cuda, "graph_pool_handle", lambda: (0, 2))
    with pytest.raises(RuntimeError, match="when stream is capturing"):
        preparer.prepare(fails([], 2, RuntimeError("operation not permitted when stream is capturing")), ONE)
    assert ended == [(0, (0, 1))]
    assert preparer._pool == (0, 2), "the pool is not used again"


def test_a_capture_without_memory_is_ended_and_leaves_nothing(preparer: GraphPreparer) -> None:
    runs: list[int] = []
    with pytest.raises(torch.cuda.OutOfMemoryError):
        preparer.prepare(fails(runs, 2, torch.cuda.OutOfMemoryError("CUDA out of memory")), ONE)
    assert Graph.made[0].log == ["thread_local", "end"]
    preparer.reset()
    assert Graph.made[0].log == ["thread_local", "end"]


@pytest.mark.parametrize("most", [1, 5, 8, 200, 512, 1000])
def test_the_largest_size_comes_first_and_all_rows_fit(preparer: GraphPreparer, most: int) -> None:
    limits = BatchLimits(max_tokens=4096, max_requests=most)
    sizes = [shape.requests for shape in preparer.shapes(limits)]
    assert sizes == sorted(set(sizes))
    assert (sizes[0], sizes[-1]) == (1, most)
    gaps = [(small, large) for small, large in itertools.pairwise(sizes)]
    assert all(large <= max(2 * small, small + 32) for small, large in gaps), (
        "a step would be padded to more than twice"
    )
    first = [shape.requests for shape in preparer.first(limits)]
    assert first[0] == most
    assert set(first) <= set(sizes)
    assert first[1:] == [2**n for n in range(10) if 2**n < most]
