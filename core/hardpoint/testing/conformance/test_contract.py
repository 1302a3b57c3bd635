"""Describing and probing: data, no device runtime, reasons instead of exceptions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from hardpoint.contract.device import Capabilities, Device, DeviceInfo
from hardpoint.contract.platform import Platform
from hardpoint.plugins import Catalogue
from hardpoint.plugins.members import check_members

_PROBE = """
import json, sys
sys.path[:0] = json.loads(sys.argv[3])
from hardpoint.plugins import Catalogue
platform = Catalogue(json.loads(sys.argv[1])).create("platforms", sys.argv[2])
first = platform.probe()
told = [repr(platform.devices()), repr([platform.capabilities(info) for info in platform.devices()])]
again = [repr(platform.devices()), repr([platform.capabilities(info) for info in platform.devices()])]
torch = sys.modules.get("torch")
chip = torch.accelerator.current_accelerator() if torch is not None else None
initialized = chip is not None and getattr(torch, chip.type).is_initialized()
print(json.dumps({"reason": first, "told": told, "again": again, "initialized": initialized}))
"""


def test_the_platform_has_every_required_member(platform: Platform) -> None:
    assert check_members(Platform, platform) == []


def test_the_device_has_every_required_member(device: Device) -> None:
    assert check_members(Device, device) == []


def test_the_open_device_is_the_described_one(device: Device, info: DeviceInfo, caps: Capabilities) -> None:
    assert device.info == info
    assert device.caps == caps


def test_the_preferred_dtype_is_one_that_models_may_run_in(caps: Capabilities) -> None:
    assert caps.preferred_dtype in caps.dtypes


@pytest.fixture(scope="module")
def probed(platform: Platform, allowed: tuple[str, ...]) -> dict[str, Any]:
    """What a fresh process learns from describing the platform."""
    arguments = [json.dumps(allowed), platform.name, json.dumps([path for path in sys.path if path])]
    run = subprocess.run(
        [sys.executable, "-c", _PROBE, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env=dict(os.environ),
        check=False,
    )
    assert run.returncode == 0, run.stderr
    answer: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return answer


def test_probing_starts_no_device_runtime(probed: dict[str, Any]) -> None:
    assert probed["reason"] is None
    assert not probed["initialized"], "probing initialised an accelerator runtime of torch in the parent process"


def test_a_platform_tells_the_same_twice(probed: dict[str, Any]) -> None:
    assert probed["told"] == probed["again"]


def test_devices_are_numbered_in_order(platform: Platform) -> None:
    assert [info.index for info in platform.devices()] == list(range(len(platform.devices())))


def test_the_named_plugins_exist(platform: Platform, catalogue: Catalogue) -> None:
    for kind, names in (
        ("attention_backends", platform.attention_backends()),
        ("ops", platform.op_providers()),
        ("linear_kernels", platform.linear_kernels()),
    ):
        for name in names:
            if name != "reference":
                catalogue.load(kind, name)
