"""What a container allows: memory and processor time of the control groups around this process (Linux, v1 and v2)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

#: Version 1 spells "no limit" as the largest multiple of a page; nothing real is above this.
_UNLIMITED: Final = 1 << 60


@dataclass(frozen=True, slots=True)
class MemoryLimit:
    """Bytes. ``used`` leaves out file cache, which the kernel gives back when memory is wanted."""

    limit: int
    used: int

    @property
    def free(self) -> int:
        """Bytes left under the limit."""
        return max(self.limit - self.used, 0)


def memory_limits(system: Path = Path("/")) -> list[MemoryLimit]:
    """Return every memory limit that holds for this process; empty where there is none.

    Args:
        system: root of the file system, for tests.
    """
    found = []
    for folder in _folders(system, "memory"):
        limit = _number(folder / "memory.max") or _number(folder / "memory.limit_in_bytes")
        used = _number(folder / "memory.current") or _number(folder / "memory.usage_in_bytes")
        if limit is not None and used is not None and limit < _UNLIMITED:
            found.append(MemoryLimit(limit, max(used - _inactive_file(folder), 0)))
    return found


def cpu_quota(system: Path = Path("/")) -> int | None:
    """Return how many cores' time this process may use, rounded up; ``None`` without a quota."""
    quotas = []
    for folder in _folders(system, "cpu"):
        words = _text(folder / "cpu.max").split()
        if len(words) != 2:
            words = [_text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us")]
        if all(word.isdigit() for word in words) and int(words[1]) > 0:
            quotas.append(max(math.ceil(int(words[0]) / int(words[1])), 1))
    return min(quotas, default=None)


def _folders(system: Path, controller: str) -> Iterator[Path]:
    """Yield the folders of this process's group and of those around it, innermost first."""
    for line in _text(system / "proc/self/cgroup").splitlines():
        hierarchy, _, rest = line.partition(":")
        controllers, _, inside = rest.partition(":")
        if hierarchy == "0" and not controllers:
            mount = system / "sys/fs/cgroup"
        elif controller in controllers.split(","):
            mount = system / "sys/fs/cgroup" / controller
        else:
            continue
        # Inside a container the path is the host's and often does not exist; the mount itself is then the group.
        group = mount / inside.lstrip("/")
        while group != mount:
            yield group
            group = group.parent
        yield mount


def _inactive_file(folder: Path) -> int:
    for line in _text(folder / "memory.stat").splitlines():
        name, _, value = line.partition(" ")
        if name in ("inactive_file", "total_inactive_file") and value.isdigit():
            return int(value)
    return 0


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text.isdigit() else None


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
