"""Streams and events: order within a stream, waiting between two."""

from __future__ import annotations

import pytest
import torch

from hardpoint.contract.device import Capabilities, Device
from hardpoint.testing.conformance.plugin import refuse

_SIZE = 1 << 20


@pytest.fixture(autouse=True)
def claimed(caps: Capabilities) -> None:
    """Refuse the group where the device has one queue only."""
    if not caps.streams:
        refuse("the device has no streams")


def test_work_on_a_stream_runs_in_order(device: Device) -> None:
    stream = device.stream()
    with device.use(stream):
        x = torch.zeros(_SIZE, device=device.torch_device)
        for _ in range(20):
            x = x + 1
    stream.synchronize()
    assert bool((x == 20).all())


def test_a_stream_waits_for_another_ones_event(device: Device) -> None:
    first, second, event = device.stream(), device.stream(), device.event()
    x = torch.zeros(_SIZE, device=device.torch_device)
    device.synchronize()
    with device.use(first):
        for _ in range(50):
            x += 1
        event.record()
    with device.use(second):
        event.wait()
        y = x * 2
    second.synchronize()
    assert bool((y == 100).all())


def test_a_recorded_event_completes(device: Device) -> None:
    event = device.event()
    torch.ones(_SIZE, device=device.torch_device).sum()
    event.record()
    event.synchronize()
    assert event.query()
