"""The device: one queue, pageable host memory, no events."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import torch

from hardpoint.contract.device import Capabilities, DeviceInfo, MemoryInfo
from hardpoint_acme import driver

if TYPE_CHECKING:
    from hardpoint.contract.collectives import World
    from hardpoint_acme.ring import RingFactory


class AcmeDevice:
    """One N1.

    Args:
        info, caps: from the platform.
        sizes: numbers of rows to compile programs for.
    """

    def __init__(self, info: DeviceInfo, caps: Capabilities, sizes: frozenset[int]) -> None:
        self.info = info
        self.caps = caps
        driver.open_device(sizes)

    @property
    def torch_device(self) -> torch.device:
        return torch.device("cpu")

    def memory(self) -> MemoryInfo:
        return MemoryInfo(free=None, total=self.info.total_bytes, used=None, peak=None)

    def reset_peak(self) -> None:
        """Nothing is counted."""

    def trim(self) -> None:
        """Nothing is cached."""

    def synchronize(self) -> None:
        """The one queue is synchronous."""

    def stream(self, priority: int = 0) -> NoReturn:
        raise driver.DriverError("the N1 has one queue")

    @contextmanager
    def use(self, stream: Any) -> Iterator[None]:
        raise driver.DriverError("the N1 has one queue")
        yield

    def event(self) -> NoReturn:
        raise driver.DriverError("the N1 has no events")

    def staging(self, shape: tuple[int, ...], dtype: str, depth: int = 1) -> PageableStaging:
        return PageableStaging(shape, dtype)

    def to_host(self, tensor: torch.Tensor) -> Copied:
        return Copied(tensor)

    def seed(self, value: int) -> None:
        torch.manual_seed(value)

    def is_oom(self, error: BaseException) -> bool:
        return isinstance(error, driver.OutOfMemory)

    def preparer(self) -> None:
        return None

    def communicators(self, world: World) -> RingFactory:
        from hardpoint_acme.ring import RingFactory

        return RingFactory(world)

    def health(self) -> str | None:
        return None if driver.opened() else "the driver is closed"

    def suspend(self, level: int) -> None:
        """Do nothing: ``caps.suspend`` is false."""

    def resume(self) -> None:
        """Do nothing; see :meth:`suspend`."""

    def close(self) -> None:
        driver.close_device()


class PageableStaging:
    """A host buffer that is copied at once.

    Args:
        shape: of the buffer.
        dtype: numpy's name.
    """

    def __init__(self, shape: tuple[int, ...], dtype: str) -> None:
        self._host = np.zeros(shape, dtype)
        self._device = torch.from_numpy(self._host.copy())

    @property
    def host(self) -> np.ndarray[Any, Any]:
        return self._host

    @property
    def device(self) -> torch.Tensor:
        return self._device

    def upload(self, n: int) -> torch.Tensor:
        # A buffer of its own for every upload: work that was queued may still read the last one.
        self._device = torch.from_numpy(self._host.copy())
        return self._device[:n]


class Copied:
    """A copy that was made at once."""

    def __init__(self, tensor: torch.Tensor) -> None:
        wanted = torch.float32 if tensor.dtype == torch.bfloat16 else tensor.dtype
        self._array: np.ndarray[Any, Any] = tensor.detach().to(wanted).clone().numpy()

    def ready(self) -> bool:
        return True

    def result(self) -> np.ndarray[Any, Any]:
        return self._array
