"""What NVIDIA's management library knows about the GPUs. Starts no CUDA context."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from hardpoint.contract.device import DeviceInfo
from hardpoint.contract.errors import PluginError

DRIVER: Final = Path("/proc/driver/nvidia/version")
REMEDY: Final = "pip install hardpoint[cuda]"


@contextmanager
def session() -> Iterator[None]:
    """Open the library for the time of a block.

    Raises:
        pynvml.NVMLError: when there is no driver.
    """
    import pynvml

    pynvml.nvmlInit()
    try:
        yield
    finally:
        pynvml.nvmlShutdown()


def absent() -> str | None:
    """Return why no GPU can be used here, or ``None``.

    Raises:
        PluginError: when there is a driver but not what is needed to use it; that is a fault, not an absence.
    """
    if not DRIVER.exists():
        return "this machine has no NVIDIA driver"
    missing = [name for name in ("pynvml", "triton") if importlib.util.find_spec(name) is None]
    if missing:
        raise PluginError(f"this machine has an NVIDIA driver, but {', '.join(missing)} is missing; {REMEDY}")
    import pynvml

    try:
        with session():
            count: int = pynvml.nvmlDeviceGetCount()
    except pynvml.NVMLError as error:
        return f"NVIDIA's driver does not answer ({error})"
    return None if count else "NVIDIA's driver sees no GPU"


def devices() -> tuple[DeviceInfo, ...]:
    """Return the GPUs in the driver's order (that of the PCI bus)."""
    import pynvml

    with session():
        return tuple(_device(index) for index in range(pynvml.nvmlDeviceGetCount()))


def _device(index: int) -> DeviceInfo:
    import pynvml

    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
    cores: int | None
    try:
        cores = pynvml.nvmlDeviceGetNumGpuCores(handle) // 128
    except pynvml.NVMLError:
        cores = None
    return DeviceInfo(
        index=index,
        name=_text(pynvml.nvmlDeviceGetName(handle)),
        uuid=_text(pynvml.nvmlDeviceGetUUID(handle)),
        arch=f"sm{major}{minor}",
        total_bytes=int(pynvml.nvmlDeviceGetMemoryInfo(handle).total),
        compute_units=cores,
        pci=_text(pynvml.nvmlDeviceGetPciInfo(handle).busId),
    )


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
