"""What NVIDIA's management library knows about the GPUs. Starts no CUDA context."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from hardpoint.contract.device import DeviceInfo
from hardpoint.contract.errors import PluginError

DRIVER: Final = Path("/proc/driver/nvidia/version")
REMEDY: Final = "pip install hardpoint[cuda]"
DRIVER_REMEDY: Final = "install it, or start the container with its GPUs (--gpus all), or use --platform cpu"


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
        return f"this machine has no NVIDIA driver; {DRIVER_REMEDY}"
    missing = [name for name in ("pynvml", "triton") if importlib.util.find_spec(name) is None]
    if missing:
        raise PluginError(f"this machine has an NVIDIA driver, but {', '.join(missing)} is missing; {REMEDY}")
    import pynvml

    try:
        with session():
            count: int = pynvml.nvmlDeviceGetCount()
    except pynvml.NVMLError as error:
        return f"NVIDIA's driver does not answer ({error})"
    if not count:
        return f"NVIDIA's driver sees no GPU; {DRIVER_REMEDY}"
    return None if devices() else f"CUDA_VISIBLE_DEVICES={os.environ['CUDA_VISIBLE_DEVICES']} leaves none of {count} GPUs"


def devices() -> tuple[DeviceInfo, ...]:
    """Return the GPUs in the driver's order (that of the PCI bus), without those that CUDA is told to leave alone."""
    import pynvml

    with session():
        found = tuple(_device(index) for index in range(pynvml.nvmlDeviceGetCount()))
    return visible(found, os.environ.get("CUDA_VISIBLE_DEVICES"))


def visible(found: Sequence[DeviceInfo], wanted: str | None) -> tuple[DeviceInfo, ...]:
    """Return the GPUs that CUDA shows to this process.

    Args:
        found: all of them.
        wanted: what CUDA's own variable CUDA_VISIBLE_DEVICES says: numbers or beginnings of unique ids, separated by
            commas; CUDA ignores what follows the first entry that names no GPU. ``None`` is all.
    """
    if wanted is None:
        return tuple(found)
    chosen = []
    for entry in (part.strip() for part in wanted.split(",")):
        match = [info for info in found if _names(entry, info)]
        if len(match) != 1:
            break
        chosen.append(match[0])
    return tuple(sorted(chosen, key=lambda info: info.index))


def _names(entry: str, info: DeviceInfo) -> bool:
    return info.index == int(entry) if entry.isdigit() else bool(entry) and info.uuid.startswith(entry)


def used_bytes(index: int) -> int:
    """Return the memory of a GPU that is in use, by whomever."""
    import pynvml

    with session():
        return int(pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(index)).used)


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
        driver=_text(pynvml.nvmlSystemGetDriverVersion()),
    )


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
