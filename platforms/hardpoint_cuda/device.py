"""An NVIDIA GPU as a device: what its management library adds to ``torch.cuda``."""

from __future__ import annotations

from functools import partial

import torch

from hardpoint.contract.device import Capabilities, DeviceInfo
from hardpoint.contract.errors import ConfigError
from hardpoint_cuda import nvml
from hardpoint_triton.gpu import GpuDevice


class CudaDevice(GpuDevice):
    """One GPU in the process that owns it.

    Args:
        info, caps: from the platform.
    """

    def __init__(self, info: DeviceInfo, caps: Capabilities) -> None:
        super().__init__(info, caps, ordinal(info), partial(nvml.used_bytes, info.index))


def ordinal(info: DeviceInfo) -> int:
    """Return what CUDA counts the GPU as: its order may differ from the management library's, and leave GPUs out.

    Raises:
        ConfigError: when CUDA does not see this GPU.
    """
    seen = [str(torch.cuda.get_device_properties(at).uuid) for at in range(torch.cuda.device_count())]
    wanted = info.uuid.removeprefix("GPU-")
    if len(seen) == 1 == len(nvml.devices()):
        return 0
    if wanted not in seen:
        raise ConfigError(
            f"CUDA does not see GPU {info.index} ({info.name}, {info.uuid}), it sees {len(seen)} other(s); "
            "CUDA_VISIBLE_DEVICES or the container's settings leave it out: choose another with --device-ids"
        )
    return seen.index(wanted)
