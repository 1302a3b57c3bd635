"""Recording what a rank does: PyTorch's profiler, for every kind of device that it knows, or the device's own."""

from __future__ import annotations

from typing import Any

import torch

from hardpoint.contract.device import Device, ProfiledDevice, Profiler


def profiler_of(device: Device) -> Profiler:
    """Return a profiler for ``device``."""
    return device.profiler() if isinstance(device, ProfiledDevice) else TorchProfiler(device)


class TorchProfiler:
    """PyTorch's profiler with all activities that this build can record, on all threads.

    Args:
        device: what to record; its work is waited for at the end.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        # Steps may run on another thread than the one that asked for the profile.
        everywhere = torch._C._profiler._ExperimentalConfig(profile_all_threads=True)
        activities = torch.profiler.supported_activities()  # type: ignore[no-untyped-call]
        self._profile: Any = torch.profiler.profile(
            activities=activities, experimental_config=everywhere, acc_events=True
        )

    def start(self) -> None:
        """Begin to record."""
        self._profile.start()

    def stop(self, path: str) -> None:
        """Wait for the device, end recording and write a Chrome trace."""
        self._device.synchronize()
        self._profile.stop()
        self._profile.export_chrome_trace(path)
