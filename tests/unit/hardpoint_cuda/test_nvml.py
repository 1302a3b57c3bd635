"""Which GPUs a process may use, by what CUDA's own variable says."""

from __future__ import annotations

import pytest

from hardpoint.contract.device import DeviceInfo
from hardpoint_cuda.nvml import visible

GPUS = tuple(
    DeviceInfo(index=i, name="gpu", uuid=f"GPU-{letter * 8}-0000", arch="sm90", total_bytes=1 << 30)
    for i, letter in enumerate("abca")
)


@pytest.mark.parametrize(
    ("wanted", "indices"),
    [
        (None, [0, 1, 2, 3]),
        ("", []),
        ("-1", []),
        ("2", [2]),
        ("3, 1", [1, 3]),
        ("1,-1,2", [1]),
        ("1,9,2", [1]),
        ("GPU-bbbbbbbb-0000", [1]),
        ("GPU-c,0", [0, 2]),
        ("GPU-a", []),  # two begin so
    ],
)
def test_visible_gpus(wanted: str | None, indices: list[int]) -> None:
    assert [info.index for info in visible(GPUS, wanted)] == indices
