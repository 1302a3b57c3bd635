"""Collectives: two ranks as two threads, and a world of one."""

from __future__ import annotations

import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from hardpoint.config import EngineConfig
from hardpoint.contract.collectives import Communicator, World
from hardpoint.contract.errors import ConfigError
from hardpoint.executor.single import SingleRank, SingleRankFactory
from hardpoint.testing.conformance.collectives import check_communicator, check_platform
from hardpoint_cpu.communicator import GlooFactory

SIZE = 2


def on_every_rank(body: Callable[[GlooFactory, int], Any]) -> list[Any]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"

    def rank_body(rank: int) -> Any:
        factory = GlooFactory(World(rank=rank, size=SIZE, address=address))
        try:
            return body(factory, rank)
        finally:
            factory.close()

    with ThreadPoolExecutor(SIZE) as pool:
        return [future.result(60) for future in [pool.submit(rank_body, rank) for rank in range(SIZE)]]


def test_collectives() -> None:
    def body(factory: GlooFactory, rank: int) -> None:
        comm = factory.group("tp", (0, 1))
        assert (comm.rank, comm.size) == (rank, SIZE)
        check_communicator(comm, torch.device("cpu"))
        with pytest.raises(ValueError, match="3 rows"):
            comm.reduce_scatter(torch.zeros(4, 3), 1)
        comm.close()

    on_every_rank(body)


def test_the_suite_notices_a_wrong_sum() -> None:
    class Forgetful(SingleRank):
        def all_reduce(self, x: torch.Tensor) -> torch.Tensor:
            return x.zero_()

    check_communicator(SingleRank(), torch.device("cpu"))
    with pytest.raises(AssertionError, match="all_reduce of"):
        check_communicator(Forgetful(), torch.device("cpu"))


@pytest.mark.slow
def test_two_processes_of_the_platform_work_together() -> None:
    check_platform(EngineConfig.of(platform="cpu", threads=1), 2)


def test_sixteen_bit_sums_are_rounded_once() -> None:
    def body(factory: GlooFactory, rank: int) -> torch.Tensor:
        return factory.group("tp", (0, 1)).all_reduce(torch.tensor([256.0, 1.0], dtype=torch.bfloat16) * (1 + rank))

    for found in on_every_rank(body):
        assert found.tolist() == [768.0, 3.0]


def test_groups_close_and_open_again_and_do_not_mix() -> None:
    def body(factory: GlooFactory, rank: int) -> list[float]:
        first, second = factory.group("tp", (0, 1)), factory.group("ep", (0, 1))
        a = first.all_reduce(torch.ones(1)).item()
        first.close()
        with pytest.raises(RuntimeError, match="closed"):
            first.all_reduce(torch.ones(1))
        b = second.all_reduce(torch.full((1,), 2.0)).item()
        again = factory.group("tp", (0, 1))
        c = again.all_reduce(torch.full((1,), 3.0)).item()
        alone = factory.group("pp", (rank,))
        return [a, b, c, alone.all_reduce(torch.full((1,), 5.0)).item()]

    assert on_every_rank(body) == [[2.0, 4.0, 6.0, 5.0]] * 2


def test_a_rank_outside_a_group_is_told() -> None:
    def body(factory: GlooFactory, rank: int) -> None:
        with pytest.raises(ConfigError, match=r"rank \d is not in the dp group"):
            factory.group("dp", (7,))

    on_every_rank(body)


@pytest.mark.parametrize("address", ["", "localhost", "localhost:x"])
def test_a_bad_address_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="host:port"):
        GlooFactory(World(rank=0, size=2, address=address))


def test_a_world_of_one_changes_nothing() -> None:
    comm = SingleRankFactory().group("tp", (0,))
    assert isinstance(comm, Communicator)
    x = torch.rand(3, 2)
    for result in (comm.all_reduce(x), comm.all_gather(x, 0), comm.reduce_scatter(x, 0), comm.broadcast(x, 0)):
        assert result is x
    comm.barrier()
    comm.close()
    assert (SingleRank.rank, SingleRank.size) == (0, 1)
    with pytest.raises(ValueError, match="tp group"):
        SingleRankFactory().group("tp", (0, 1))
