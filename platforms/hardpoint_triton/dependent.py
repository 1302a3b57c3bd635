"""Programmatic dependent launch: a kernel's programs start, and fetch what no kernel writes, while its predecessor ends.

A kernel launched with :func:`keywords` calls :func:`wait` before it reads anything that an earlier kernel wrote and before
it writes anything that an earlier kernel may still read. Weights, which no kernel writes, may be loaded before. It calls
:func:`release` as early as it likes: from then on its own successor's programs may take the multiprocessors that it leaves
free. Waiting is transitive: who waits for a kernel that waits for another has waited for both, so every kernel of a chain
must wait, also one that has nothing to fetch.

Both do nothing where ``PDL`` is false: on AMD's chips, on NVIDIA's before sm90, in Triton's interpreter.
"""

from __future__ import annotations

from functools import cache
from typing import Final, TypedDict

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

FIRST_ARCH: Final = (9, 0)


class LaunchKeywords(TypedDict, total=False):
    """Keywords of a kernel call: a compile-time ``PDL`` for the kernel and the launch attribute."""

    PDL: bool
    launch_pdl: bool


@cache
def supported(device: torch.device) -> bool:
    """Return whether kernels on ``device`` can be launched as dependents."""
    if device.type != "cuda" or torch.version.hip is not None or triton.knobs.runtime.interpret:
        return False
    return torch.cuda.get_device_capability(device) >= FIRST_ARCH


@cache
def keywords(device: torch.device) -> LaunchKeywords:
    """Return the keywords with which a kernel that has a ``PDL`` parameter is called."""
    return {"PDL": True, "launch_pdl": True} if supported(device) else {"PDL": False}


@triton.jit
def wait(PDL: tl.constexpr):  # noqa: N803
    """Block until all earlier kernels are done and what they wrote is visible."""
    if PDL:
        gdc_wait()


@triton.jit
def release(PDL: tl.constexpr):  # noqa: N803
    """Let the next kernel's programs start once all of this kernel's have come here."""
    if PDL:
        gdc_launch_dependents()
