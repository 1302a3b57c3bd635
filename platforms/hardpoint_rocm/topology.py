"""What the kernel driver (amdgpu, KFD) tells of the GPUs in sysfs. Starts no HIP context.

Format: Linux, ``drivers/gpu/drm/amd/amdkfd/kfd_topology.c``: a folder a node, with ``name`` and ``properties`` ("key value"
lines), and a folder ``mem_banks/N`` for each kind of memory. CPUs are nodes without ``simd_count``.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from hardpoint.contract.device import DeviceInfo
from hardpoint.contract.errors import PluginError

KFD: Final = Path("/dev/kfd")
NODES: Final = Path("/sys/class/kfd/kfd/topology/nodes")
MODULE: Final = Path("/sys/module/amdgpu/version")
REMEDY: Final = "pip install hardpoint[rocm]"
DRIVER_REMEDY: Final = "install ROCm's kernel driver, or start the container with --device=/dev/kfd --device=/dev/dri, or use --platform cpu"
#: KFD's heap types of memory on the GPU: visible and not visible to the host.
_LOCAL_HEAPS: Final = (1, 2)


def absent() -> str | None:
    """Return why no GPU can be used here, or ``None``.

    Raises:
        PluginError: when there is a driver but not what is needed to use it; that is a fault, not an absence.
    """
    if not KFD.exists():
        return f"this machine has no AMD compute driver ({KFD} is missing); {DRIVER_REMEDY}"
    if importlib.util.find_spec("triton") is None:
        raise PluginError(f"this machine has an AMD compute driver, but triton is missing; {REMEDY}")
    if not os.access(KFD, os.R_OK | os.W_OK):
        return f"{KFD} may not be opened by this user; add the user to the groups render and video"
    if not read_nodes(NODES):
        return f"AMD's driver sees no GPU; {DRIVER_REMEDY}"
    return None if devices() else "HIP_VISIBLE_DEVICES or ROCR_VISIBLE_DEVICES leaves no GPU"


def devices(nodes: Path = NODES) -> tuple[DeviceInfo, ...]:
    """Return the GPUs in the driver's order, without those that HIP is told to leave alone."""
    found = read_nodes(nodes)
    for variable in ("ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"):
        found = visible(found, os.environ.get(variable))
    return found


def visible(found: Sequence[DeviceInfo], wanted: str | None) -> tuple[DeviceInfo, ...]:
    """Return the GPUs that AMD's own variables show to this process.

    Args:
        found: those that the variable applies to.
        wanted: numbers among ``found`` or unique ids ("GPU-..."), separated by commas; what follows an entry that names no
            GPU is ignored. ``None`` is all.
    """
    if wanted is None:
        return tuple(found)
    chosen: list[DeviceInfo] = []
    for entry in (part.strip() for part in wanted.split(",")):
        if entry.isdigit() and int(entry) < len(found):
            chosen.append(found[int(entry)])
        elif match := [info for info in found if entry and info.uuid == entry]:
            chosen.append(match[0])
        else:
            break
    return tuple(sorted(chosen, key=lambda info: info.index))


def read_nodes(nodes: Path) -> tuple[DeviceInfo, ...]:
    """Return every GPU among KFD's nodes."""
    if not nodes.is_dir():
        return ()
    folders = sorted((path for path in nodes.iterdir() if path.name.isdigit()), key=lambda path: int(path.name))
    found: list[DeviceInfo] = []
    for folder in folders:
        properties = _properties(folder / "properties")
        if properties.get("simd_count"):
            found.append(_device(len(found), folder, properties))
    return tuple(found)


def architecture(version: int) -> str:
    """Return LLVM's name of an architecture that KFD gives as ``major * 10000 + minor * 100 + stepping``."""
    major, minor, stepping = version // 10000, version // 100 % 100, version % 100
    return f"gfx{major}{minor:x}{stepping:x}"


def used_bytes(pci: str, devices: Path = Path("/sys/bus/pci/devices")) -> int | None:
    """Return the memory of a GPU that is in use, by whomever; ``None`` where the driver does not tell."""
    file = devices / pci / "mem_info_vram_used"
    return int(file.read_text()) if file.exists() else None


def _device(index: int, folder: Path, properties: dict[str, int]) -> DeviceInfo:
    banks = [_properties(path) for path in sorted((folder / "mem_banks").glob("*/properties"))]
    local = sum(bank.get("size_in_bytes", 0) for bank in banks if bank.get("heap_type") in _LOCAL_HEAPS)
    name = (folder / "name").read_text().strip() if (folder / "name").exists() else ""
    location, domain = properties.get("location_id", 0), properties.get("domain", 0)
    pci = f"{domain:04x}:{location >> 8 & 0xFF:02x}:{location >> 3 & 0x1F:02x}.{location & 7}"
    return DeviceInfo(
        index=index,
        name=name or f"AMD GPU {architecture(properties['gfx_target_version'])}",
        uuid=f"GPU-{properties['unique_id']:016x}" if properties.get("unique_id") else "",
        arch=architecture(properties["gfx_target_version"]),
        total_bytes=local or None,
        unified_memory=not local,
        compute_units=properties["simd_count"] // max(1, properties.get("simd_per_cu", 4)),
        pci=pci,
        driver=MODULE.read_text().strip() if MODULE.exists() else "",
    )


def _properties(file: Path) -> dict[str, int]:
    if not file.exists():
        return {}
    pairs = (line.split() for line in file.read_text().splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}
