"""A device is a handful of parts: memory, streams and events, staging buffers, seeds, collectives.

``Capabilities`` is frozen data with conservative defaults; the core decides from it before it builds anything.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    import torch

    from hardpoint.contract.collectives import CommunicatorFactory, World
    from hardpoint.contract.limits import BatchLimits, BatchShape

T = TypeVar("T")


class GraphSupport(IntEnum):
    """For which steps a device (or an attention planner) can replay a prepared step."""

    NONE = 0
    DECODE = 1
    UNIFORM = 2
    ANY = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceInfo:
    """What is known about a device without touching its driver's runtime.

    Attributes:
        index: position among the platform's devices.
        name: marketing name.
        uuid: stable identity, or ``""``.
        arch: architecture as the platform spells it: ``"sm90"``, ``"gfx942"``, ``"x86-64-v4"``.
        total_bytes: memory in bytes, ``None`` when unknown.
        unified_memory: whether the device shares the host's memory.
        compute_units: multiprocessors or cores, ``None`` when unknown.
        pci: bus id, ``None`` when it has none.
        numa: NUMA node, ``None`` when unknown.
        driver: version of its driver, or ``""``.
    """

    index: int
    name: str
    uuid: str
    arch: str
    total_bytes: int | None
    unified_memory: bool = False
    compute_units: int | None = None
    pci: str | None = None
    numa: int | None = None
    driver: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a device can do. Every default is the conservative answer.

    Attributes:
        dtypes: element types that models may run in, by torch's names.
        preferred_dtype: what ``--dtype auto`` means when the checkpoint's own type is not in ``dtypes``.
        kv_dtypes: values of ``--kv-cache-dtype`` beside ``auto``.
        pinned_host: whether page-locked host memory exists.
        streams: whether work can be queued on more than one stream.
        asynchronous: whether work runs while the host goes on; makes two steps in flight worth their cost.
        graphs: for which steps a prepared step can be replayed.
        static_shapes: whether the device wants fixed shapes (``BatchLimits.shapes``).
        suspend: whether ``Device.suspend`` frees memory.
        collectives: names of collective transports, empty for a device that works alone.
    """

    dtypes: frozenset[str] = frozenset({"float32"})
    preferred_dtype: str = "float32"
    kv_dtypes: frozenset[str] = frozenset()
    pinned_host: bool = False
    streams: bool = False
    asynchronous: bool = False
    graphs: GraphSupport = GraphSupport.NONE
    static_shapes: bool = False
    suspend: bool = False
    collectives: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryInfo:
    """Bytes; ``None`` where the device cannot tell.

    Attributes:
        free: available to this process now.
        total: on the device.
        used: taken by this process's tensors.
        peak: most taken by this process since ``reset_peak``.
        cached: held by this process's allocator for tensors to come, ``None`` where it holds nothing back.
        driver: taken for this process outside the allocator: context, loaded kernels, libraries.
    """

    free: int | None
    total: int | None
    used: int | None
    peak: int | None
    cached: int | None = None
    driver: int | None = None


class Event(Protocol):
    """A point in a stream's work."""

    def record(self) -> None: ...
    def wait(self) -> None:
        """Make the current stream wait for the recorded point."""

    def query(self) -> bool: ...
    def synchronize(self) -> None:
        """Block the host until the recorded point is reached."""


class Stream(Protocol):
    """A queue of device work."""

    def synchronize(self) -> None: ...


class Staging(Protocol):
    """A host buffer with a twin on the device.

    The host side may be written again only after the upload that read it is done; ``upload`` of a buffer that is still in
    flight waits for it. Code that writes every step asks for ``depth`` buffers and goes round.
    """

    @property
    def host(self) -> np.ndarray[Any, Any]: ...
    @property
    def device(self) -> torch.Tensor: ...
    def upload(self, n: int) -> torch.Tensor:
        """Copy the first ``n`` entries of axis 0 to the device and return that part of ``device``."""


class Profiler(Protocol):
    """Records what runs on a device, for one trace."""

    def start(self) -> None: ...
    def stop(self, path: str) -> None:
        """End it and write a Chrome trace; ``baseTimeNanoseconds`` of its JSON is the Unix time that its ``ts`` count from."""


@runtime_checkable
class ProfiledDevice(Protocol):
    """Optional part of a device that is profiled with a tool of its own; others are through PyTorch's profiler."""

    def profiler(self) -> Profiler: ...


class StepPreparer(Protocol):
    """Capture, ahead-of-time compilation and eager execution are one idea: prepare a step for a shape.

    The core prepares decode steps: a step of ``shape.requests`` rows with one token each. It runs the smallest prepared
    shape that holds the rows at hand, with spare rows that write to the null block only.
    """

    def shapes(self, limits: BatchLimits) -> Sequence[BatchShape]:
        """Return the decode shapes that may be prepared, in any order; empty when every step runs eagerly."""

    def first(self, limits: BatchLimits) -> Sequence[BatchShape]:
        """Return those to prepare before the first request, in this order; others follow as they are used or time allows."""

    def prepare(self, step: Callable[[], T], shape: BatchShape) -> Callable[[], T]:
        """Return a callable that does what ``step`` does, with the same results at the same addresses every time.

        Results hold until the next prepared step of any shape, whatever work the host has queued on them by then included.
        Called before the first request, while nothing runs, and between steps. What raises an error for which
        ``Device.is_oom`` holds leaves everything as it was.

        ``step`` reads and writes only tensors that live as long as the runner, does not wait for the device, and may be
        run several times in a row with the same effect.
        """

    def reset(self) -> None:
        """Forget what was prepared, before the memory that it uses is given back."""


@runtime_checkable
class Device(Protocol):
    """An opened device, in the worker that owns it."""

    info: DeviceInfo
    caps: Capabilities

    @property
    def torch_device(self) -> torch.device:
        """The device on which the core allocates tensors."""

    def memory(self) -> MemoryInfo: ...
    def reset_peak(self) -> None: ...
    def trim(self) -> None:
        """Give cached, unused memory back."""

    def synchronize(self) -> None: ...
    def stream(self, priority: int = 0) -> Stream: ...
    def use(self, stream: Stream) -> AbstractContextManager[None]: ...
    def event(self) -> Event: ...
    def staging(self, shape: tuple[int, ...], dtype: str, depth: int = 1) -> Staging:
        """Return a staging buffer; ``dtype`` is numpy's name. With ``depth`` > 1 each ``upload`` moves to the next one."""

    def to_host(self, tensor: torch.Tensor) -> HostCopy:
        """Start copying ``tensor`` to the host."""

    def seed(self, value: int) -> None: ...
    def is_oom(self, error: BaseException) -> bool: ...
    def preparer(self) -> StepPreparer | None: ...
    def communicators(self, world: World) -> CommunicatorFactory: ...
    def health(self) -> str | None:
        """Return what is wrong, or ``None``."""

    def suspend(self, level: int) -> None: ...
    def resume(self) -> None: ...
    def close(self) -> None: ...


class HostCopy(Protocol):
    """A device-to-host copy under way."""

    def ready(self) -> bool: ...
    def result(self) -> np.ndarray[Any, Any]:
        """Wait for the copy and return it."""
