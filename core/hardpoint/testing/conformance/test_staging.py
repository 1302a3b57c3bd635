"""Staging buffers and copies to the host: what arrives is what was written, however soon the buffer is used again."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hardpoint.contract.device import Device


@pytest.mark.parametrize("dtype", ["int32", "int64", "float32", "uint8", "bool"])
def test_what_is_uploaded_arrives(device: Device, dtype: str) -> None:
    staging = device.staging((37,), dtype)
    values = (np.arange(37) % 2).astype(dtype)
    staging.host[:] = values
    assert device.to_host(staging.upload(37)).result().tolist() == values.tolist()


def test_a_part_is_uploaded_alone(device: Device) -> None:
    staging = device.staging((8, 3), "float32")
    staging.host[:] = 1.0
    staging.upload(8)
    staging.host[:2] = 2.0
    part = staging.upload(2)
    assert tuple(part.shape) == (2, 3)
    assert device.to_host(part).result().tolist() == [[2.0] * 3] * 2


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_buffer_is_not_overwritten_while_its_copy_is_under_way(device: Device, depth: int) -> None:
    staging = device.staging((1 << 18,), "int32", depth=depth)
    kept = []
    for value in range(12):
        staging.host[:] = value
        kept.append(staging.upload(1 << 18).clone())
    device.synchronize()
    assert [int(x.min()) for x in kept] == list(range(12))
    assert [int(x.max()) for x in kept] == list(range(12))


def test_a_copy_to_the_host_is_of_the_moment_it_was_asked_for(device: Device) -> None:
    x = torch.zeros(1 << 18, dtype=torch.int32, device=device.torch_device)
    copies = []
    for value in range(6):
        y = x + value
        copies.append(device.to_host(y))
        del y
    assert [int(copy.result()[-1]) for copy in copies] == list(range(6))
    assert all(copy.ready() for copy in copies)


def test_the_seed_decides_what_is_drawn(device: Device) -> None:
    def draw() -> list[float]:
        device.seed(7)
        drawn: list[float] = torch.rand(16, device=device.torch_device).tolist()
        return drawn

    assert draw() == draw()


def test_the_device_is_well(device: Device) -> None:
    assert device.health() is None
