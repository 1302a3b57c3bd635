"""Keywords of kernel calls that not every one of Triton's compilers knows."""

from __future__ import annotations

import torch


def registers(device: torch.device, most: int) -> dict[str, int]:
    """Return what bounds a thread's registers, so that more programs fit on a multiprocessor; 0 is no bound.

    Only NVIDIA's compiler takes it.
    """
    bounded = most and device.type == "cuda" and torch.version.hip is None
    return {"maxnreg": most} if bounded else {}
