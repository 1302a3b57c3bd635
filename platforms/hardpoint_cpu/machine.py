"""The processor: its name, its instruction sets, and the cores that this process may use. Imports no torch."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Final

from hardpoint_cpu import cgroup

#: Levels of the x86-64 psABI, best first, with flags that imply the rest.
_LEVELS: Final = (("x86-64-v4", {"avx512f", "avx512bw", "avx512vl"}), ("x86-64-v3", {"avx2", "fma", "bmi2"}))
#: Extensions that change which kernels are fast: 16-bit and 8-bit products.
_EXTENSIONS: Final = ("avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_int8", "amx_fp16", "bf16", "i8mm")


@dataclass(frozen=True, slots=True)
class Machine:
    """What /proc/cpuinfo says, or what Python knows where there is no such file."""

    name: str
    arch: str


@cache
def machine(cpuinfo: Path = Path("/proc/cpuinfo")) -> Machine:
    """Return name and architecture; e.g. ``x86-64-v4/avx512_vnni/avx512_bf16``."""
    try:
        text = cpuinfo.read_text()
    except OSError:
        text = ""
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}
    flags = set((fields.get("flags") or fields.get("Features") or "").split())
    base = platform.machine().lower()
    if base in ("x86_64", "amd64"):
        base = next((level for level, needed in _LEVELS if needed <= flags), "x86-64")
    extensions = [flag for flag in _EXTENSIONS if flag in flags]
    name = fields.get("model name") or platform.processor() or base
    return Machine(name=name, arch="/".join((base, *extensions)))


def usable_cores() -> tuple[int, ...]:
    """Return the cores to use: those that the process may run on, no more of them than its quota of time pays for."""
    if hasattr(os, "sched_getaffinity"):
        cores = tuple(sorted(os.sched_getaffinity(0)))
    else:
        cores = tuple(range(os.cpu_count() or 1))
    quota = cgroup.cpu_quota()
    return cores if quota is None else cores[:quota]


def split_cores(cores: tuple[int, ...], ranks: int) -> tuple[tuple[int, ...], ...]:
    """Return each rank's cores: neighbours together, none shared unless there are fewer cores than ranks."""
    if len(cores) < ranks:
        return tuple((cores[rank % len(cores)],) for rank in range(ranks))
    bounds = [rank * len(cores) // ranks for rank in range(ranks + 1)]
    return tuple(cores[low:high] for low, high in pairwise(bounds))
