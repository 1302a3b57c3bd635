"""Collectives over gloo, for several ranks on one machine or several."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch.distributed import ProcessGroupGloo, Store  # type: ignore[attr-defined]

from hardpoint.contract.collectives import World
from hardpoint.executor.groups import TIMEOUT, TransportCommunicator, TransportFactory, host_and_port

LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")


class GlooFactory(TransportFactory["GlooCommunicator"]):
    """Opens groups over gloo.

    Args:
        world: see :class:`hardpoint.executor.groups.TransportFactory`.

    Raises:
        ConfigError: when the address is not ``host:port``.
    """

    def __init__(self, world: World) -> None:
        self._host, _port = host_and_port(world)
        super().__init__(world, self._communicator)

    def _communicator(self, store: Store, rank: int, size: int) -> GlooCommunicator:
        return GlooCommunicator(ProcessGroupGloo(store, rank, size, self._options()), rank, size)

    def _options(self) -> Any:
        """Return gloo's options: on one machine it keeps to loopback, where nothing has to be resolved by name."""
        options = ProcessGroupGloo._Options()  # type: ignore[attr-defined]
        options._timeout = TIMEOUT
        if self._host in LOOPBACK:
            options._devices = [ProcessGroupGloo.create_device(hostname=self._host)]
        else:
            options._devices = [ProcessGroupGloo.create_default_device()]
        return options


class GlooCommunicator(TransportCommunicator):
    """One group of ranks."""

    def all_reduce(self, x: torch.Tensor) -> torch.Tensor:
        """Return the sum over ranks, in ``x``'s memory if that is contiguous; 16-bit values are summed in float32."""
        if x.dtype in (torch.bfloat16, torch.float16):
            return self.all_reduce(x.float()).to(x.dtype)
        x = x.contiguous()
        self.transport.allreduce([x]).wait()
        return x

    def all_gather(self, x: torch.Tensor, dim: int) -> torch.Tensor:
        """Return the ranks' tensors, of equal shapes, concatenated along ``dim`` in rank order."""
        x = x.contiguous()
        parts = [torch.empty_like(x) for _ in range(self.size)]
        self.transport.allgather([parts], [x]).wait()
        return torch.cat(parts, dim)

    def reduce_scatter(self, x: torch.Tensor, dim: int) -> torch.Tensor:
        """Return this rank's part of the sum over ranks, cut along ``dim``.

        Raises:
            ValueError: when ``dim`` cannot be cut into equal parts.
        """
        self.check_parts(x, dim)
        return self.all_reduce(x.clone()).chunk(self.size, dim)[self.rank].contiguous()

    def barrier(self) -> None:
        """Wait until every rank is here."""
        self.transport.barrier().wait()
