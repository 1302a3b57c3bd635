"""What the host tells a prepared decode step, in one copy: static on the device, a few buffers in turn on the host."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

import numpy as np
import torch

from hardpoint.contract.device import Device

A = TypeVar("A")

_HEADER: Final = 4
_ALIGNMENT: Final = 16


@dataclass(frozen=True, slots=True)
class StepFields(Generic[A]):
    """Views of one buffer for steps of ``n`` rows, on host or device.

    Attributes:
        turn: int32[1], which of the results in turn the step writes.
        rows: int32[n], rows of the persistent batch.
        computed: int32[n], tokens of each row whose keys and values are in the cache.
        draw: int32[n], a ``DRAWS_*`` of :mod:`hardpoint.runner.sampling.kinds`; this and what follows is there only where
            some row samples at random.
        uniform: float64[n] in [0, 1).
        top_p: float64[n], 1 for none.
        top_k: int64[n], 1 up to ``SMALL``.
        temperature: float32[n].
        min_p: float32[n], 0 for none.
    """

    turn: A
    rows: A
    computed: A
    draw: A
    uniform: A
    top_p: A
    top_k: A
    temperature: A
    min_p: A


#: Fields after ``computed`` with numpy's and torch's types.
_DRAWING: Final = (
    ("draw", np.int32, torch.int32),
    ("uniform", np.float64, torch.float64),
    ("top_p", np.float64, torch.float64),
    ("top_k", np.int64, torch.int64),
    ("temperature", np.float32, torch.float32),
    ("min_p", np.float32, torch.float32),
)


class _Layout:
    """Byte ranges of the fields for steps of ``size`` rows."""

    def __init__(self, size: int) -> None:
        self.ranges = {"turn": (0, 4), "rows": (_HEADER * 4, (_HEADER + size) * 4)}
        self.ranges["computed"] = (self.ranges["rows"][1], self.ranges["rows"][1] + 4 * size)
        end = self.plain = _aligned(self.ranges["computed"][1])
        for name, kind, _ in _DRAWING:
            width = np.dtype(kind).itemsize * size
            self.ranges[name] = (end, end + width)
            end = _aligned(end + width)
        self.whole = end


class StepBuffer:
    """Fields of steps of up to ``widest`` rows.

    Args:
        widest: rows of the largest step.
        device: where the static side lives.
        depth: host buffers; one is written again when its copy is done, which is waited for.
    """

    def __init__(self, widest: int, device: Device, depth: int) -> None:
        size = _Layout(widest).whole
        self._device = torch.zeros(size, dtype=torch.uint8, device=device.torch_device)
        self._hosts = [torch.zeros(size, dtype=torch.uint8, pin_memory=device.caps.pinned_host) for _ in range(depth)]
        self._copied = [device.event() for _ in range(depth)]
        self._layouts: dict[int, _Layout] = {}
        self._views: dict[tuple[int, int], StepFields[np.ndarray[Any, Any]]] = {}
        self._pairs: dict[tuple[int, int], tuple[torch.Tensor, torch.Tensor]] = {}
        self._turn = 0

    @property
    def turn(self) -> int:
        """The host buffer to write next."""
        return self._turn

    def fields(self, size: int) -> StepFields[torch.Tensor]:
        """Return the device's side for steps of ``size`` rows."""
        ranges = self._layout(size).ranges
        types = {name: kind for name, _, kind in _DRAWING}
        return StepFields(
            **{name: self._device[a:b].view(types.get(name, torch.int32)) for name, (a, b) in ranges.items()}
        )

    def host(self, size: int) -> StepFields[np.ndarray[Any, Any]]:
        """Return the host's side to fill for a step of ``size`` rows; what it held is not kept."""
        self._copied[self._turn].synchronize()
        key = self._turn, size
        if key not in self._views:
            buffer, ranges = self._hosts[self._turn].numpy(), self._layout(size).ranges
            types = {name: kind for name, kind, _ in _DRAWING}
            self._views[key] = StepFields(
                **{name: buffer[a:b].view(types.get(name, np.int32)) for name, (a, b) in ranges.items()}
            )
        return self._views[key]

    def upload(self, size: int, *, draws: bool) -> None:
        """Queue the copy of what was filled in, with the fields of drawing rows where there are some; go to the next."""
        layout = self._layout(size)
        end = layout.whole if draws else layout.plain
        key = self._turn, end
        if key not in self._pairs:
            self._pairs[key] = self._device[:end], self._hosts[self._turn][:end]
        to, source = self._pairs[key]
        to.copy_(source, non_blocking=True)
        self._copied[self._turn].record()
        self._turn = (self._turn + 1) % len(self._hosts)

    def _layout(self, size: int) -> _Layout:
        if size not in self._layouts:
            self._layouts[size] = _Layout(size)
        return self._layouts[size]


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
