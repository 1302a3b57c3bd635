"""An NVIDIA GPU as a device: memory, streams, events, pinned staging."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from hardpoint.contract.collectives import CommunicatorFactory, World
from hardpoint.contract.device import (
    Capabilities,
    DeviceInfo,
    Event,
    HostCopy,
    MemoryInfo,
    Staging,
    StepPreparer,
    Stream,
)


class CudaDevice:
    """One GPU in the process that owns it.

    Args:
        info, caps: from the platform.
    """

    def __init__(self, info: DeviceInfo, caps: Capabilities) -> None:
        self.info = info
        self.caps = caps
        self._device = torch.device("cuda", info.index)
        torch.cuda.set_device(self._device)
        self._copies = torch.cuda.Stream(self._device)

    @property
    def torch_device(self) -> torch.device:
        """The device on which the core allocates tensors."""
        return self._device

    def memory(self) -> MemoryInfo:
        """Return the driver's count of free memory, with what PyTorch's allocator holds unused added."""
        free, total = torch.cuda.mem_get_info(self._device)
        reserved, allocated = torch.cuda.memory_reserved(self._device), torch.cuda.memory_allocated(self._device)
        return MemoryInfo(
            free=free + reserved - allocated,
            total=total,
            used=allocated,
            peak=torch.cuda.max_memory_allocated(self._device),
        )

    def reset_peak(self) -> None:
        torch.cuda.reset_peak_memory_stats(self._device)

    def trim(self) -> None:
        torch.cuda.empty_cache()

    def synchronize(self) -> None:
        torch.cuda.synchronize(self._device)

    def stream(self, priority: int = 0) -> Stream:
        return torch.cuda.Stream(self._device, priority=priority)

    @contextmanager
    def use(self, stream: Stream) -> Iterator[None]:
        """Queue the block's work on ``stream``."""
        assert isinstance(stream, torch.cuda.Stream)
        with torch.cuda.stream(stream):
            yield

    def event(self) -> Event:
        return torch.cuda.Event()

    def staging(self, shape: tuple[int, ...], dtype: str, depth: int = 1) -> Staging:
        return PinnedStaging(shape, dtype, depth, self._device)

    def to_host(self, tensor: torch.Tensor) -> HostCopy:
        """Copy on a stream of its own, so that the next step's kernels do not queue behind it."""
        return PinnedCopy(tensor, self._copies)

    def seed(self, value: int) -> None:
        torch.cuda.manual_seed(value)

    def is_oom(self, error: BaseException) -> bool:
        return isinstance(error, torch.cuda.OutOfMemoryError)

    def preparer(self) -> StepPreparer | None:
        from hardpoint_cuda.graphs import GraphPreparer

        return GraphPreparer()

    def communicators(self, world: World) -> CommunicatorFactory:
        """Return the factory of a world of one; the platform refuses more ranks."""
        from hardpoint.executor.single import SingleRankFactory

        return SingleRankFactory()

    def health(self) -> str | None:
        """Return what the driver reports of a broken context, or ``None``."""
        try:
            torch.cuda.synchronize(self._device)
        except RuntimeError as error:
            return str(error)
        return None

    def suspend(self, level: int) -> None:
        """Do nothing: ``caps.suspend`` is false."""

    def resume(self) -> None:
        """Do nothing; see :meth:`suspend`."""

    def close(self) -> None:
        torch.cuda.synchronize(self._device)
        torch.cuda.empty_cache()


class PinnedStaging:
    """Page-locked host buffers with twins on the GPU.

    Args:
        shape: of each buffer.
        dtype: numpy's name.
        depth: buffers; each :meth:`upload` moves on to the next, and waits for that one's last copy.
        device: the GPU.
    """

    def __init__(self, shape: tuple[int, ...], dtype: str, depth: int, device: torch.device) -> None:
        if depth < 1:
            raise ValueError(f"depth is {depth}; it must be at least 1")
        like = torch.from_numpy(np.zeros(shape, dtype))
        self._hosts = [like.clone().pin_memory() for _ in range(depth)]
        self._views: list[np.ndarray[Any, Any]] = [host.numpy() for host in self._hosts]
        self._devices = [like.to(device) for _ in range(depth)]
        self._done = [torch.cuda.Event() for _ in range(depth)]
        self._current = 0

    @property
    def host(self) -> np.ndarray[Any, Any]:
        """The buffer to write next."""
        return self._views[self._current]

    @property
    def device(self) -> torch.Tensor:
        """Its twin on the GPU."""
        return self._devices[self._current]

    def upload(self, n: int) -> torch.Tensor:
        """Queue the copy of the first ``n`` entries and return them on the GPU."""
        at = self._current
        part = self._devices[at][:n]
        part.copy_(self._hosts[at][:n], non_blocking=True)
        self._done[at].record()
        self._current = (at + 1) % len(self._hosts)
        self._done[self._current].synchronize()
        return part


class PinnedCopy:
    """A copy to the host under way.

    Args:
        tensor: what to copy; work that wrote it must be queued on the current stream already.
        stream: the stream on which the copy runs.
    """

    def __init__(self, tensor: torch.Tensor, stream: torch.cuda.Stream) -> None:
        stream.wait_stream(torch.cuda.current_stream(tensor.device))
        with torch.cuda.stream(stream):
            self._host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._host.copy_(tensor, non_blocking=True)
            self._done = torch.cuda.Event()
            self._done.record()
        tensor.record_stream(stream)

    def ready(self) -> bool:
        return self._done.query()

    def result(self) -> np.ndarray[Any, Any]:
        """Wait for the copy; bfloat16, which numpy lacks, becomes float32."""
        self._done.synchronize()
        wanted = torch.float32 if self._host.dtype == torch.bfloat16 else self._host.dtype
        array: np.ndarray[Any, Any] = self._host.to(wanted).numpy()
        return array
