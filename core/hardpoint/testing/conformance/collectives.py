"""Collectives against what they are defined to give. Every rank of a world calls :func:`check_communicator`."""

from __future__ import annotations

import multiprocessing
import socket
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from hardpoint.contract.collectives import Communicator, World

if TYPE_CHECKING:
    from hardpoint.config import EngineConfig

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.int64)


def check_communicator(comm: Communicator, place: torch.device) -> None:
    """Check every collective of an open group, for every rank count, dtype and axis.

    Values are small whole numbers, which every dtype adds without rounding.

    Raises:
        AssertionError: naming the collective and the dtype.
    """
    assert isinstance(comm, Communicator)
    assert 0 <= comm.rank < comm.size
    everyone = sum(range(1, comm.size + 1))
    comm.barrier()
    for dtype in DTYPES:
        base = torch.arange(6 * comm.size).view(2 * comm.size, 3).to(dtype).to(place)
        mine = base * (comm.rank + 1)
        found = {
            "all_reduce": comm.all_reduce(mine.clone()),
            "all_reduce, strided": comm.all_reduce(mine.clone().t()),
            "all_gather, axis 0": comm.all_gather(mine, 0),
            "all_gather, axis 1": comm.all_gather(mine, 1),
            "reduce_scatter": comm.reduce_scatter(mine, 0),
            "reduce_scatter, axis 1": comm.reduce_scatter(mine.t().contiguous(), 1),
            "broadcast": comm.broadcast(mine.clone(), comm.size - 1),
        }
        total, parts = base * everyone, [base * (rank + 1) for rank in range(comm.size)]
        expected = {
            "all_reduce": total,
            "all_reduce, strided": total.t(),
            "all_gather, axis 0": torch.cat(parts, 0),
            "all_gather, axis 1": torch.cat(parts, 1),
            "reduce_scatter": total.chunk(comm.size, 0)[comm.rank],
            "reduce_scatter, axis 1": total.t().chunk(comm.size, 1)[comm.rank],
            "broadcast": parts[-1],
        }
        for name, wanted in expected.items():
            result = found[name]
            assert result.dtype == dtype, f"{name} of {dtype} returned {result.dtype}"
            assert torch.equal(result, wanted), f"{name} of {dtype} on rank {comm.rank}: {result} is not {wanted}"
        try:
            comm.reduce_scatter(base[:1].expand(comm.size + 1, 3).contiguous(), 0)
        except ValueError:
            continue
        assert comm.size == 1, "reduce_scatter cut rows that do not divide by the ranks"


def check_replays(
    comm: Communicator, place: torch.device, prepared: Callable[[Callable[[], Any]], Callable[[], Any]]
) -> None:
    """Check that collectives inside a prepared step work each time that it runs.

    Args:
        comm: the group.
        place: where tensors live.
        prepared: what makes a prepared step of a function, as ``StepPreparer.prepare``.

    Raises:
        AssertionError: when a replay's sum is wrong.
    """
    source = torch.zeros(256, device=place)
    replay = prepared(lambda: comm.all_reduce(source * 2))
    for turn in range(1, 4):
        source.fill_(float(turn * (comm.rank + 1)))
        expected = float(2 * turn * sum(range(1, comm.size + 1)))
        result = replay()
        assert bool((result == expected).all()), f"replay {turn} on rank {comm.rank} gave {result[0]}, not {expected}"


def check_platform(config: EngineConfig, ranks: int) -> None:
    """Open ``ranks`` devices of a platform, one in each of as many processes, and check their collectives.

    Raises:
        AssertionError: with what a rank said.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    context = multiprocessing.get_context("spawn")
    said: Any = context.SimpleQueue()
    started = [
        context.Process(target=_rank, args=(config, World(rank=rank, size=ranks, address=address), said), daemon=True)
        for rank in range(ranks)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join(timeout=300)
    failures = []
    while not said.empty():
        failures.append(said.get())
    failures += [f"rank {i} ended with {p.exitcode}" for i, p in enumerate(started) if p.exitcode != 0]
    for process in started:
        if process.is_alive():
            process.kill()
    assert not failures, "\n".join(failures)


def _rank(config: EngineConfig, world: World, said: Any) -> None:
    from hardpoint.contract.limits import BatchShape
    from hardpoint.plugins import Catalogue

    try:
        platform: Any = Catalogue.of(config.plugins).create("platforms", config.platform.platform)
        device = platform.open(platform.devices()[world.rank].index, config)
        factory = device.communicators(world)
        comm = factory.group("tp", tuple(range(world.size)))
        check_communicator(comm, device.torch_device)
        preparer = device.preparer()
        if preparer is not None:
            shape = BatchShape(tokens=1, requests=1, decode=True)
            check_replays(comm, device.torch_device, lambda step: preparer.prepare(step, shape))
            preparer.reset()
        comm.close()
        factory.close()
        device.close()
    except BaseException:
        said.put(f"rank {world.rank}:\n{traceback.format_exc()}")
        raise
