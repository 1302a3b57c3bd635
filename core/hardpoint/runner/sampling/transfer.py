"""Host arrays to the device."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from hardpoint.contract.device import Device

_ALIGNMENT = 16


class Uploads:
    """Copies small host arrays to a device without waiting for it."""

    def __init__(self, device: Device) -> None:
        self._device = device.torch_device
        self._pin = device.caps.pinned_host

    def __call__(self, array: npt.NDArray[Any]) -> torch.Tensor:
        """Return ``array`` on the device; it must not be written again, as the device may share or still read it."""
        array = np.ascontiguousarray(array)
        if not array.flags.writeable:
            # What crossed a process border is a view of the message; torch has no read-only tensors.
            array = array.copy()
        tensor = torch.from_numpy(array)
        if self._pin:
            # Copies from pageable memory may wait for the device; the allocator keeps pinned pages until they are read.
            tensor = tensor.pin_memory()
        return tensor.to(self._device, non_blocking=True)

    def together(self, *arrays: npt.NDArray[Any]) -> tuple[torch.Tensor, ...]:
        """Return flat ``arrays`` on the device after one copy for all of them; the arrays may be written again at once."""
        starts, end = [], 0
        for array in arrays:
            starts.append(end)
            end += -(-array.nbytes // _ALIGNMENT) * _ALIGNMENT
        packed = torch.empty(end, dtype=torch.uint8, pin_memory=self._pin)
        host = packed.numpy()
        for start, array in zip(starts, arrays, strict=True):
            host[start : start + array.nbytes].view(array.dtype)[:] = array
        there = packed.to(self._device, non_blocking=True)
        return tuple(
            there[start : start + array.nbytes].view(_TORCH[array.dtype.name])
            for start, array in zip(starts, arrays, strict=True)
        )


_TORCH = {
    "int32": torch.int32,
    "int64": torch.int64,
    "float32": torch.float32,
    "float64": torch.float64,
}
