"""Collectives over the N1's ring, simulated with sockets: every message passes through rank 0."""

from __future__ import annotations

import io
import time
from multiprocessing.connection import Client, Connection, Listener
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from hardpoint.contract.collectives import World

_PATIENCE = 60.0
_KEY = b"acme-ring"


class RingFactory:
    """Opens groups.

    Args:
        world: where this rank stands.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._links: list[Connection] = []
        if world.size > 1:
            host, port = world.address.rsplit(":", 1)
            self._links = _gather_links(world, (host, int(port)))

    def group(self, purpose: str, ranks: tuple[int, ...]) -> Ring:
        if len(ranks) not in (1, self._world.size):
            raise ValueError(f"the ring joins all {self._world.size} ranks or none, not {ranks}")
        return Ring(self._world.rank if len(ranks) > 1 else 0, len(ranks), self._links)

    def close(self) -> None:
        for link in self._links:
            link.close()


class Ring:
    """All ranks, or one alone."""

    def __init__(self, rank: int, size: int, links: list[Connection]) -> None:
        self.rank, self.size, self._links = rank, size, links

    def all_reduce(self, x: torch.Tensor) -> torch.Tensor:
        parts = self._exchange(x)
        return x if len(parts) == 1 else torch.stack([part.double() for part in parts]).sum(0).to(x.dtype)

    def all_gather(self, x: torch.Tensor, dim: int) -> torch.Tensor:
        return torch.cat(self._exchange(x), dim)

    def reduce_scatter(self, x: torch.Tensor, dim: int) -> torch.Tensor:
        if x.shape[dim] % self.size:
            raise ValueError(f"{x.shape[dim]} rows cannot be cut into {self.size} equal parts")
        return self.all_reduce(x).chunk(self.size, dim)[self.rank].contiguous()

    def broadcast(self, x: torch.Tensor, source: int) -> torch.Tensor:
        return x.copy_(self._exchange(x)[source])

    def barrier(self) -> None:
        self._exchange(torch.zeros(1))

    def close(self) -> None:
        """Links belong to the factory."""

    def _exchange(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Return every rank's tensor."""
        if self.size == 1:
            return [x]
        if self.rank:
            self._links[0].send_bytes(_pack(x))
            return [_unpack(self._links[0].recv_bytes(), x.dtype) for _ in range(self.size)]
        parts = [_pack(x), *(link.recv_bytes() for link in self._links)]
        for link in self._links:
            for part in parts:
                link.send_bytes(part)
        return [_unpack(part, x.dtype) for part in parts]


def _gather_links(world: World, address: tuple[str, int]) -> list[Connection]:
    if world.rank == 0:
        with Listener(address, backlog=world.size, authkey=_KEY) as listener:
            links = [listener.accept() for _ in range(world.size - 1)]
        return [
            link for _, link in sorted(((int(link.recv_bytes()), link) for link in links), key=lambda pair: pair[0])
        ]
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            link = Client(address, authkey=_KEY)
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            link.send_bytes(str(world.rank).encode())
            return [link]


def _pack(x: torch.Tensor) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, (x.view(torch.int16) if x.dtype == torch.bfloat16 else x).contiguous().numpy(), allow_pickle=False)
    return buffer.getvalue()


def _unpack(data: bytes, dtype: torch.dtype) -> torch.Tensor:
    found = torch.from_numpy(np.load(io.BytesIO(data), allow_pickle=False))
    return found.view(torch.bfloat16) if dtype == torch.bfloat16 else found
