"""The processor as a device: memory is the host's, work is done when a call returns."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil
import torch

from hardpoint.contract.collectives import CommunicatorFactory, World
from hardpoint.contract.device import Capabilities, DeviceInfo, Event, HostCopy, MemoryInfo, Staging, Stream
from hardpoint_cpu.cgroup import memory_limits
from hardpoint_cpu.platform import total_bytes

_OOM_TEXTS: Final = ("can't allocate memory", "DefaultCPUAllocator", "not enough memory", "std::bad_alloc")
_STATUS: Final = Path("/proc/self/status")
_CLEAR_REFS: Final = Path("/proc/self/clear_refs")
# glibc's mallopt: names of parameters, and what they are set to. 32 MiB is the largest threshold that it accepts.
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_MMAP_THRESHOLD: Final = 32 << 20
_TRIM_THRESHOLD: Final = 256 << 20


class CpuDevice:
    """The processor in one process.

    Args:
        info, caps: from the platform.
        threads: PyTorch's threads within an operation.
        ranks: processes that share the machine's memory with this one, itself included.
    """

    def __init__(self, info: DeviceInfo, caps: Capabilities, *, threads: int, ranks: int) -> None:
        self.info = info
        self.caps = caps
        self._ranks = ranks
        torch.set_num_threads(threads)
        _keep_freed_memory()

    @property
    def torch_device(self) -> torch.device:
        """The device on which the core allocates tensors."""
        return torch.device("cpu")

    def memory(self) -> MemoryInfo:
        """Return this rank's share of what machine and container have left, and what the process takes."""
        free = min([int(psutil.virtual_memory().available), *(limit.free for limit in memory_limits())])
        used = int(psutil.Process().memory_info().rss)
        return MemoryInfo(free=free // self._ranks, total=total_bytes(), used=used, peak=_peak_bytes())

    def reset_peak(self) -> None:
        """Start a new peak where the kernel lets a process do so (Linux)."""
        if _CLEAR_REFS.exists():
            try:
                _CLEAR_REFS.write_text("5")
            except OSError:
                # Some sandboxes forbid it; the peak then stays that of the whole process, which errs to the safe side.
                return

    def trim(self) -> None:
        """Collect garbage and return free heap pages to the system where the C library can."""
        gc.collect()
        if (trim := _c_library("malloc_trim")) is not None:
            trim(0)

    def synchronize(self) -> None:
        """Return at once: nothing runs by itself."""

    def stream(self, priority: int = 0) -> Stream:
        return CpuStream()

    @contextmanager
    def use(self, stream: Stream) -> Iterator[None]:
        """Do nothing: there is one stream, the calling thread."""
        yield

    def event(self) -> Event:
        return CpuEvent()

    def staging(self, shape: tuple[int, ...], dtype: str, depth: int = 1) -> Staging:
        return SharedStaging(shape, dtype, depth)

    def to_host(self, tensor: torch.Tensor) -> HostCopy:
        return Snapshot(tensor)

    def seed(self, value: int) -> None:
        torch.manual_seed(value)

    def is_oom(self, error: BaseException) -> bool:
        """Return whether ``error`` says that memory ran out."""
        if isinstance(error, MemoryError):
            return True
        return isinstance(error, RuntimeError) and any(text in str(error) for text in _OOM_TEXTS)

    def preparer(self) -> None:
        """Return ``None``: every shape runs eagerly."""
        return

    def communicators(self, world: World) -> CommunicatorFactory:
        """Join ``world`` over gloo; a world of one needs no transport."""
        from hardpoint.executor.single import SingleRankFactory
        from hardpoint_cpu.communicator import GlooFactory

        return GlooFactory(world) if world.size > 1 else SingleRankFactory()

    def health(self) -> str | None:
        """Return ``None``: a processor that is broken does not answer."""
        return None

    def suspend(self, level: int) -> None:
        """Do nothing: ``caps.suspend`` is false."""

    def resume(self) -> None:
        """Do nothing; see :meth:`suspend`."""

    def close(self) -> None:
        self.trim()


class CpuStream:
    """The calling thread."""

    def synchronize(self) -> None:
        """Return at once."""


class CpuEvent:
    """A point that is reached when it is recorded."""

    def record(self) -> None:
        """Do nothing: all work before it is done."""

    def wait(self) -> None:
        """Do nothing; see :meth:`record`."""

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        """Return at once."""


class SharedStaging:
    """Buffers whose host side and device side are the same memory.

    Args:
        shape: of each buffer.
        dtype: numpy's name.
        depth: buffers; each :meth:`upload` moves on to the next.
    """

    def __init__(self, shape: tuple[int, ...], dtype: str, depth: int) -> None:
        if depth < 1:
            raise ValueError(f"depth is {depth}; it must be at least 1")
        self._hosts = [np.zeros(shape, dtype) for _ in range(depth)]
        self._devices = [torch.from_numpy(host) for host in self._hosts]
        self._current = 0

    @property
    def host(self) -> np.ndarray[Any, Any]:
        """The buffer to write next."""
        return self._hosts[self._current]

    @property
    def device(self) -> torch.Tensor:
        """The same memory as a tensor."""
        return self._devices[self._current]

    def upload(self, n: int) -> torch.Tensor:
        """Return the first ``n`` entries of the current buffer and move on to the next one."""
        part = self._devices[self._current][:n]
        self._current = (self._current + 1) % len(self._hosts)
        return part


class Snapshot:
    """A copy that is there at once. numpy knows no bfloat16: such tensors become float32.

    Args:
        tensor: what to copy; it may be overwritten afterwards.
    """

    def __init__(self, tensor: torch.Tensor) -> None:
        wanted = torch.float32 if tensor.dtype == torch.bfloat16 else tensor.dtype
        self._array: np.ndarray[Any, Any] = tensor.detach().to(wanted, copy=True).numpy()

    def ready(self) -> bool:
        return True

    def result(self) -> np.ndarray[Any, Any]:
        return self._array


def _keep_freed_memory() -> None:
    """Make the C library keep what a step frees, for the next step.

    By default it returns every piece of some megabytes to the system at once, and the next step's first touch of each page
    costs more than the computation on it: activations of the same size are made and dropped in every layer of every step.
    """
    if (mallopt := _c_library("mallopt")) is not None:
        mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD)
        mallopt(_M_TRIM_THRESHOLD, _TRIM_THRESHOLD)


def _c_library(function: str) -> Callable[..., int] | None:
    """Return a function of the C library, or ``None`` where it has none of that name."""
    return getattr(ctypes.CDLL(None), function, None) if sys.platform == "linux" else None


def _peak_bytes() -> int | None:
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return None
