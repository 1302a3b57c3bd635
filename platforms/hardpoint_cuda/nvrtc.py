"""Kernels in CUDA C++: compiled for the device when first used, launched as dependents of the kernel before."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Final

import torch

#: ``CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION``.
_PROGRAMMATIC: Final = 6


class _Attribute(ctypes.Structure):
    _fields_ = (("id", ctypes.c_int), ("pad", ctypes.c_char * 4), ("value", ctypes.c_int * 16))


class _Config(ctypes.Structure):
    _fields_ = (
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared", ctypes.c_uint),
        ("stream", ctypes.c_void_p),
        ("attributes", ctypes.POINTER(_Attribute)),
        ("count", ctypes.c_uint),
    )


@dataclass(frozen=True, slots=True)
class Kernel:
    """A compiled function. ``owner`` keeps its module loaded."""

    function: int
    owner: Any

    def launch(self, grid: int, threads: int, shared: int, arguments: Sequence[Any]) -> None:
        """Launch on the current stream, to start while the kernel before it ends.

        The kernel must wait (``griddepcontrol.wait``) before it reads what another wrote and before it writes.

        Args:
            grid: blocks.
            threads: of a block.
            shared: bytes of dynamic shared memory of a block.
            arguments: ctypes values in the kernel's order.

        Raises:
            RuntimeError: when the driver refuses.
        """
        attribute = _Attribute(id=_PROGRAMMATIC)
        attribute.value[0] = 1
        config = _Config(
            grid=(grid, 1, 1),
            block=(threads, 1, 1),
            shared=shared,
            stream=torch.cuda.current_stream().cuda_stream,
            attributes=ctypes.pointer(attribute),
            count=1,
        )
        addresses = (ctypes.c_void_p * len(arguments))(*(ctypes.addressof(each) for each in arguments))
        code = _driver().cuLaunchKernelEx(ctypes.byref(config), ctypes.c_void_p(self.function), addresses, None)
        if code:
            raise RuntimeError(
                f"the driver refused to launch a kernel of {grid} blocks of {threads} threads: error {code}"
            )


@cache
def compiled(source: str, name: str, macros: tuple[tuple[str, int], ...], device: int) -> Kernel:
    """Compile the function ``name`` of a file of this package with macros for a device."""
    import cupy  # type: ignore[import-not-found]

    code = files("hardpoint_cuda").joinpath(source).read_text()
    options = tuple(f"-D{key}={value}" for key, value in macros)
    with cupy.cuda.Device(device):
        module = cupy.RawModule(code=code, options=options, backend="nvrtc")
        return Kernel(module.get_function(name).kernel.ptr, module)


@cache
def _driver() -> ctypes.CDLL:
    return ctypes.CDLL("libcuda.so.1")
