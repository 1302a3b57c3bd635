"""Collectives between two ranks, opened and closed more than once, and the world of one."""

from __future__ import annotations

import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pytest
import torch

from hardpoint.contract.collectives import Communicator, World
from hardpoint.contract.device import Device
from hardpoint.contract.platform import Platform
from hardpoint.testing.conformance.plugin import refuse

_SIZE = 2
_SECONDS = 60
T = TypeVar("T")


@pytest.fixture
def ranks(device: Device, platform: Platform) -> Callable[[Callable[[Communicator, int], T]], list[T]]:
    """Run a body on two ranks, each a thread with a communicator of the device."""
    if not device.caps.collectives:
        refuse("the device works alone")
    if len(platform.devices()) < _SIZE and not device.info.unified_memory and device.torch_device.type != "cpu":
        refuse(f"{_SIZE} devices are needed")

    def run(body: Callable[[Communicator, int], T]) -> list[T]:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{probe.getsockname()[1]}"

        def rank_body(rank: int) -> T:
            factory = device.communicators(World(rank=rank, size=_SIZE, address=address))
            try:
                return body(factory.group("tp", tuple(range(_SIZE))), rank)
            finally:
                factory.close()

        with ThreadPoolExecutor(_SIZE) as pool:
            return [future.result(_SECONDS) for future in [pool.submit(rank_body, rank) for rank in range(_SIZE)]]

    return run


def test_every_collective_on_every_rank(
    ranks: Callable[[Callable[[Communicator, int], dict[str, torch.Tensor]]], list[dict[str, torch.Tensor]]],
    device: Device,
) -> None:
    base = torch.arange(12, device=device.torch_device).view(4, 3).to(getattr(torch, device.caps.preferred_dtype))

    def body(comm: Communicator, rank: int) -> dict[str, torch.Tensor]:
        x = base * (rank + 1)
        comm.barrier()
        return {
            "reduced": comm.all_reduce(x.clone()),
            "rows": comm.all_gather(x, 0),
            "columns": comm.all_gather(x, 1),
            "scattered": comm.reduce_scatter(x, 0),
            "sent": comm.broadcast(x.clone(), 1),
        }

    for rank, found in enumerate(ranks(body)):
        assert torch.equal(found["reduced"], base * 3)
        assert torch.equal(found["rows"], torch.cat((base, base * 2)))
        assert torch.equal(found["columns"], torch.cat((base, base * 2), 1))
        assert torch.equal(found["scattered"], (base * 3).chunk(2)[rank])
        assert torch.equal(found["sent"], base * 2)
        assert all(tensor.dtype == base.dtype for tensor in found.values())


def test_groups_open_again_after_they_were_closed(
    ranks: Callable[[Callable[[Communicator, int], float]], list[float]], device: Device
) -> None:
    def body(comm: Communicator, rank: int) -> float:
        return float(comm.all_reduce(torch.ones(1, device=device.torch_device)))

    assert ranks(body) == [2.0, 2.0]
    assert ranks(body) == [2.0, 2.0]


def test_a_world_of_one_needs_no_address(device: Device) -> None:
    factory = device.communicators(World())
    comm = factory.group("tp", (0,))
    x = torch.arange(4.0, device=device.torch_device)
    assert (comm.rank, comm.size) == (0, 1)
    assert torch.equal(comm.all_reduce(x.clone()), x)
    assert torch.equal(comm.all_gather(x, 0), x)
    comm.barrier()
    comm.close()
    factory.close()
