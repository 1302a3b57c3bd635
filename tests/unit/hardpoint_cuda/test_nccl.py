"""What can be said of the NCCL groups without a GPU: their calls, over a transport that takes the same ones."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch.distributed import ProcessGroupGloo

from hardpoint.contract.collectives import World
from hardpoint.contract.errors import PluginError
from hardpoint.executor.groups import TransportFactory
from hardpoint.testing.conformance.collectives import check_communicator, check_replays
from hardpoint_cpu.communicator import GlooFactory
from hardpoint_triton.nccl import NcclCommunicator, NcclFactory

CPU = torch.device("cpu")


class Recorded:
    """A gloo group that notes whether calls ask for the current stream."""

    def __init__(self, group: Any) -> None:
        self._group = group
        self.synchronous: list[bool] = []

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._group, name)

        def noted(*args: Any) -> Any:
            asked = [not arg.asyncOp for arg in args if hasattr(arg, "asyncOp")]
            self.synchronous += asked
            work = call(*args)
            if not asked:
                return work
            # NCCL's collectives on the current stream give nothing to wait for.
            work.wait()
            return None

        return noted


@pytest.mark.parametrize("size", [2, 3])
def test_collectives_give_what_they_are_defined_to_give(size: int) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    waited: list[int] = []

    def body(rank: int) -> list[bool]:
        world = World(rank=rank, size=size, address=address)
        options = GlooFactory._options(type("Loopback", (), {"_host": "127.0.0.1"})())  # type: ignore[arg-type]
        groups = []

        def opened(store: Any, rank: int, ranks: int) -> NcclCommunicator:
            groups.append(Recorded(ProcessGroupGloo(store, rank, ranks, options)))
            return NcclCommunicator(groups[-1], rank, ranks, lambda: waited.append(rank), CPU)

        factory = TransportFactory(world, opened)
        comm = factory.group("tp", tuple(range(size)))
        check_communicator(comm, CPU)
        check_replays(comm, CPU, lambda step: step)
        comm.close()
        with pytest.raises(RuntimeError, match="closed"):
            comm.all_reduce(torch.zeros(1))
        comm.close()
        factory.close()
        return groups[0].synchronous

    with ThreadPoolExecutor(size) as pool:
        for synchronous in [future.result(60) for future in [pool.submit(body, rank) for rank in range(size)]]:
            assert len(synchronous) > 20
            assert all(synchronous), "a collective left the current stream; a captured step would miss it"
    assert sorted(waited) == list(range(size))


@pytest.mark.skipif(torch.distributed.is_nccl_available(), reason="this PyTorch has NCCL")
def test_a_build_without_nccl_says_what_to_do() -> None:
    with pytest.raises(PluginError, match=r"no NCCL, so 2 GPUs.*--tensor-parallel-size 1"):
        NcclFactory(World(rank=0, size=2, address="127.0.0.1:1"), CPU)
