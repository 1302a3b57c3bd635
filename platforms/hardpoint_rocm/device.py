"""An AMD GPU as a device: what sysfs adds to ``torch.cuda``, the name under which PyTorch's HIP builds serve it."""

from __future__ import annotations

from functools import partial

import torch

from hardpoint.contract.device import Capabilities, DeviceInfo
from hardpoint.contract.errors import ConfigError, PluginError
from hardpoint_rocm import topology
from hardpoint_triton.gpu import GpuDevice


class RocmDevice(GpuDevice):
    """One GPU in the process that owns it.

    Args:
        info, caps: from the platform.

    Raises:
        PluginError: when this PyTorch is not a HIP build.
        ConfigError: when HIP does not see the GPU.
    """

    def __init__(self, info: DeviceInfo, caps: Capabilities) -> None:
        if torch.version.hip is None:
            raise PluginError(
                f"this PyTorch ({torch.__version__}) was not built for ROCm; install one from PyTorch's ROCm index "
                "(pip install torch --index-url, see pytorch.org), or use --platform cpu"
            )
        super().__init__(info, caps, ordinal(info), partial(topology.used_bytes, info.pci or ""))


def ordinal(info: DeviceInfo) -> int:
    """Return what HIP counts the GPU as: it counts the visible ones in the driver's order.

    Raises:
        ConfigError: when HIP sees another number of GPUs, or one of another architecture in that place.
    """
    shown = [other.index for other in topology.devices()]
    seen = torch.cuda.device_count()
    if info.index not in shown or len(shown) != seen:
        raise ConfigError(
            f"HIP sees {seen} GPU(s) and the driver shows {len(shown)}; GPU {info.index} ({info.name}) is not surely found: "
            "check HIP_VISIBLE_DEVICES, ROCR_VISIBLE_DEVICES and the container's devices"
        )
    at = shown.index(info.index)
    arch = str(torch.cuda.get_device_properties(at).gcnArchName).partition(":")[0]
    if arch != info.arch:
        raise ConfigError(
            f"GPU {info.index} is {info.arch} to the driver and {arch} to HIP; check HSA_OVERRIDE_GFX_VERSION"
        )
    return at
