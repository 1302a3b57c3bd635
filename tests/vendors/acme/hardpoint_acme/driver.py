"""The N1's driver, simulated on the host with the real one's moods.

- It may be opened in a worker process only (``ACME_WORKER``, which its launcher sets), and not in one that was forked from
  a process that opened it.
- A program is compiled for the sizes that were declared when the device was opened; any other size is an error.
- Memory is counted in pages of 2 MiB. There is one queue and no events.
"""

from __future__ import annotations

import os
from typing import Final

PAGE: Final = 2 << 20
MEMORY: Final = 4 << 30
WORKER: Final = "ACME_WORKER"

_opened_in: int | None = None
_sizes: frozenset[int] = frozenset()


class DriverError(RuntimeError):
    """What the driver says."""


class OutOfMemory(DriverError):  # noqa: N818  the vendor's name
    """An allocation that does not fit."""


def present() -> bool:
    """Return whether a device is plugged in. Opens nothing."""
    return True


def opened() -> bool:
    """Return whether this process has opened the device."""
    return _opened_in == os.getpid()


def open_device(sizes: frozenset[int]) -> None:
    """Open the device and compile programs for ``sizes`` rows.

    Raises:
        DriverError: outside a worker process, or in a fork of one that opened it.
    """
    global _opened_in, _sizes
    if WORKER not in os.environ:
        raise DriverError("the N1 was opened outside a worker process; its driver would not survive it")
    if _opened_in not in (None, os.getpid()):
        raise DriverError("the N1 was opened by the process that this one was forked from")
    _opened_in, _sizes = os.getpid(), sizes


def close_device() -> None:
    """Close the device."""
    global _opened_in
    _opened_in = None


def check_size(rows: int) -> None:
    """Check that a program for ``rows`` rows was compiled.

    Raises:
        DriverError: when there is none.
    """
    if _sizes and rows not in _sizes:
        raise DriverError(f"no program was compiled for {rows} rows; there are {sorted(_sizes)}")


def check_memory(used: int) -> None:
    """Check that ``used`` bytes fit.

    Raises:
        OutOfMemory: when they do not.
    """
    if -(-used // PAGE) * PAGE > MEMORY:
        raise OutOfMemory(f"{used} bytes do not fit into {MEMORY}")
