"""Memory: what the device tells of it, and that giving back gives back."""

from __future__ import annotations

import pytest
import torch

from hardpoint.contract.device import Device
from hardpoint.testing.conformance.plugin import refuse

_SIZE = 64 << 20


def test_free_is_within_total(device: Device) -> None:
    memory = device.memory()
    if memory.free is None or memory.total is None:
        refuse("the device cannot tell its memory")
        return
    assert 0 <= memory.free <= memory.total


def test_what_is_held_beside_tensors_is_not_negative(device: Device) -> None:
    memory = device.memory()
    assert memory.cached is None or memory.cached >= 0
    assert memory.driver is None or memory.driver >= 0


def test_an_allocation_counts_until_it_is_given_back(device: Device) -> None:
    if device.memory().used is None or device.info.unified_memory:
        refuse("the device does not count this process's memory")
    device.trim()
    before = device.memory().used
    block = torch.empty(_SIZE, dtype=torch.uint8, device=device.torch_device).fill_(1)
    device.synchronize()
    during = device.memory().used
    del block
    device.trim()
    after = device.memory().used
    assert before is not None
    assert during is not None
    assert after is not None
    assert during - before >= _SIZE
    assert after - before < _SIZE // 4


def test_the_peak_is_the_most_since_it_was_reset(device: Device) -> None:
    if device.memory().peak is None:
        refuse("the device does not know its peak")
    device.trim()
    device.reset_peak()
    start = device.memory().peak
    block = torch.empty(_SIZE, dtype=torch.uint8, device=device.torch_device).fill_(1)
    device.synchronize()
    del block
    peak = device.memory().peak
    assert start is not None
    assert peak is not None
    if device.info.unified_memory:
        assert peak >= start
    else:
        assert peak - start >= _SIZE


def test_running_out_of_memory_is_recognised(device: Device) -> None:
    memory = device.memory()
    if memory.total is None or memory.used is None or device.info.unified_memory:
        refuse("an allocation beyond this device's memory would be the host's")
    assert memory.total is not None
    with pytest.raises(BaseException) as caught:  # noqa: PT011  whatever the device raises
        torch.empty(2 * memory.total, dtype=torch.uint8, device=device.torch_device).fill_(1)
    assert device.is_oom(caught.value)
    assert device.health() is None
    assert float(torch.ones(4, device=device.torch_device).sum()) == 4.0


def test_other_errors_are_not_taken_for_it(device: Device) -> None:
    assert not device.is_oom(ValueError("no"))
    assert not device.is_oom(RuntimeError("shapes do not match"))
