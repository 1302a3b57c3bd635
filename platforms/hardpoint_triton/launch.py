"""Keywords of kernel calls that not every one of Triton's compilers knows."""

from __future__ import annotations

from functools import cache
from typing import Final

import torch
import triton

#: Local memory of a workgroup on AMD's chips, in bytes: that of gfx9 (but gfx950, which has more) and gfx11.
AMD_SHARED: Final = 1 << 16
#: Steps in flight there: the second is in registers while the first is in local memory.
AMD_STAGES: Final = 2


def registers(device: torch.device, most: int) -> dict[str, int]:
    """Return what bounds a thread's registers, so that more programs fit on a multiprocessor; 0 is no bound.

    Only NVIDIA's compiler takes it.
    """
    bounded = most and device.type == "cuda" and torch.version.hip is None
    return {"maxnreg": most} if bounded else {}


def stages(wanted: int) -> int:
    """Return how many steps of a loop are in flight where ``wanted`` fit an NVIDIA GPU's shared memory."""
    return wanted if torch.version.hip is None else min(wanted, AMD_STAGES)


@cache
def narrow() -> bool:
    """Return whether the chip is one of AMD's RDNA family: warps of 32 threads whose registers hold smaller tiles only."""
    if torch.version.hip is None:
        return False
    return str(triton.runtime.driver.active.get_current_target().arch).startswith("gfx1")
