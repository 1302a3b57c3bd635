"""Calls of a kernel past Triton's study of its arguments, which takes the host longer than a small kernel runs."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import torch
from triton.compiler import CompiledKernel

from hardpoint_triton import dependent


class Launches:
    """The compiled forms of one kernel, by a key.

    The key must tell apart whatever Triton compiles apart: element types, constants, whether addresses and integers are
    multiples of 16, integers that are 1, and the device. The kernel's last parameter is ``PDL``.

    Args:
        kernel: decorated with ``triton.jit``.
    """

    __slots__ = ("_compiled", "_kernel")

    def __init__(self, kernel: Any) -> None:
        self._kernel = kernel
        self._compiled: dict[Hashable, tuple[CompiledKernel, tuple[Any, ...]]] = {}

    def again(self, key: Hashable, grid: tuple[int, int, int], *args: Any) -> bool:
        """Launch the form that a call of :meth:`first` with the same key made; return whether there is one."""
        found = self._compiled.get(key)
        if found is None:
            return False
        kernel, constants = found
        kernel[grid](*args, *constants)
        return True

    def first(
        self, key: Hashable, grid: tuple[int, int, int], *args: Any, device: torch.device, warps: int, **constants: Any
    ) -> None:
        """Compile and launch; ``constants`` in the kernel's order, without ``PDL``."""
        keywords = dependent.keywords(device)
        made = self._kernel[grid](*args, **constants, num_warps=warps, **keywords)
        # The interpreter makes none.
        if isinstance(made, CompiledKernel):
            self._compiled[key] = made, (*constants.values(), keywords["PDL"])
