"""A GPU through PyTorch's ``torch.cuda``, which its HIP builds serve too: memory, streams, events, pinned staging.

A platform derives its device from :class:`GpuDevice` and adds what only its own driver knows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

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

#: How the runtime, the BLAS and DNN libraries, Triton and the collectives say that memory ran out.
OUT_OF_MEMORY: Final = ("out of memory", "_STATUS_ALLOC_FAILED", "Failed to CUDA calloc", "_status_memory_error")


class GpuDevice:
    """One GPU in the process that owns it.

    Args:
        info, caps: from the platform.
        ordinal: what ``torch.cuda`` counts the GPU as.
        used_bytes: tells the memory in use on the GPU, by whomever; ``None`` where the driver does not.
    """

    def __init__(
        self, info: DeviceInfo, caps: Capabilities, ordinal: int, used_bytes: Callable[[], int | None]
    ) -> None:
        self.info = info
        self.caps = caps
        self._used_bytes = used_bytes
        # Before anything starts the driver's context, which counts as ours.
        self._used_by_others = used_bytes()
        self._device = torch.device("cuda", ordinal)
        torch.cuda.set_device(self._device)
        self._copies = torch.cuda.Stream(self._device)

    @property
    def torch_device(self) -> torch.device:
        """The device on which the core allocates tensors."""
        return self._device

    def memory(self) -> MemoryInfo:
        """Return the driver's count of free memory, with what PyTorch's allocator holds unused added.

        What the driver takes is what the GPU's use has grown by since it was opened, beside the allocator's share; other
        processes that come and go meanwhile are counted in.
        """
        free, total = torch.cuda.mem_get_info(self._device)
        reserved, allocated = torch.cuda.memory_reserved(self._device), torch.cuda.memory_allocated(self._device)
        return MemoryInfo(
            free=free + reserved - allocated,
            total=total,
            used=allocated,
            peak=torch.cuda.max_memory_allocated(self._device),
            cached=reserved - allocated,
            driver=self._driver_bytes(reserved),
        )

    def _driver_bytes(self, reserved: int) -> int:
        before, now = self._used_by_others, self._used_bytes()
        return 0 if before is None or now is None else max(0, now - before - reserved)

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
        """Return whether ``error`` says that memory ran out: PyTorch's, or a library's own words."""
        if isinstance(error, torch.cuda.OutOfMemoryError):
            return True
        text = str(error)
        return isinstance(error, RuntimeError) and any(words in text for words in OUT_OF_MEMORY)

    def preparer(self) -> StepPreparer | None:
        from hardpoint_triton.graphs import GraphPreparer

        return GraphPreparer(self._device)

    def communicators(self, world: World) -> CommunicatorFactory:
        """Join ``world`` over NCCL, or RCCL under its name; a world of one needs no transport."""
        from hardpoint.executor.single import SingleRankFactory
        from hardpoint_triton.nccl import NcclFactory

        return NcclFactory(world, self._device) if world.size > 1 else SingleRankFactory()

    def health(self) -> str | None:
        """Return what the driver reports of a broken context, or ``None``."""
        try:
            torch.cuda.synchronize(self._device)
        except RuntimeError as error:
            # What follows the first line is advice on debugging PyTorch.
            return str(error).partition("\n")[0]
        return None

    def suspend(self, level: int) -> None:
        """Do nothing: ``caps.suspend`` is false."""

    def resume(self) -> None:
        """Do nothing; see :meth:`suspend`."""

    def close(self) -> None:
        """Wait for what is queued and give memory back; a broken context is left to the end of the process."""
        if self.health() is None:
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
