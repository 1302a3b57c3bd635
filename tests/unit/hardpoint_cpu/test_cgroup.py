"""Limits of containers, read from made-up file systems."""

from __future__ import annotations

from pathlib import Path

import pytest

from hardpoint_cpu.cgroup import MemoryLimit, cpu_quota, memory_limits


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


def test_version_2_counts_every_group_around_the_process(tmp_path: Path) -> None:
    system = tree(
        tmp_path,
        {
            "proc/self/cgroup": "0::/outer/inner",
            "sys/fs/cgroup/outer/inner/memory.max": "max",
            "sys/fs/cgroup/outer/inner/memory.current": "70",
            "sys/fs/cgroup/outer/memory.max": "1000",
            "sys/fs/cgroup/outer/memory.current": "400",
            "sys/fs/cgroup/outer/memory.stat": "anon 10\ninactive_file 150\nactive_file 7",
            "sys/fs/cgroup/outer/cpu.max": "150000 100000",
            "sys/fs/cgroup/cpu.max": "max 100000",
        },
    )
    assert memory_limits(system) == [MemoryLimit(limit=1000, used=250)]
    assert memory_limits(system)[0].free == 750
    assert cpu_quota(system) == 2


def test_version_1_has_a_folder_per_controller(tmp_path: Path) -> None:
    system = tree(
        tmp_path,
        {
            "proc/self/cgroup": "9:name=systemd:/\n4:cpu,cpuacct:/box\n3:memory:/box",
            "sys/fs/cgroup/memory/box/memory.limit_in_bytes": "5000",
            "sys/fs/cgroup/memory/box/memory.usage_in_bytes": "6000",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": str(2**63 - 4096),
            "sys/fs/cgroup/memory/memory.usage_in_bytes": "9",
            "sys/fs/cgroup/cpu/box/cpu.cfs_quota_us": "50000",
            "sys/fs/cgroup/cpu/box/cpu.cfs_period_us": "100000",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
        },
    )
    assert memory_limits(system) == [MemoryLimit(limit=5000, used=6000)]
    assert memory_limits(system)[0].free == 0
    assert cpu_quota(system) == 1


def test_the_mount_is_the_group_when_the_path_is_the_hosts(tmp_path: Path) -> None:
    system = tree(
        tmp_path,
        {
            "proc/self/cgroup": "0::/../../host/box",
            "sys/fs/cgroup/memory.max": "800",
            "sys/fs/cgroup/memory.current": "300",
        },
    )
    assert memory_limits(system) == [MemoryLimit(limit=800, used=300)]


@pytest.mark.parametrize("files", [{}, {"proc/self/cgroup": "0::/"}, {"proc/self/cgroup": "garbage"}])
def test_no_limits_where_there_are_none(tmp_path: Path, files: dict[str, str]) -> None:
    system = tree(tmp_path, files)
    assert memory_limits(system) == []
    assert cpu_quota(system) is None
