"""Groups of ranks over one of PyTorch's transports, without its global default group: a world can be left and joined."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final, Generic, TypeVar

import torch
from torch.distributed import BroadcastOptions, PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

from hardpoint.contract.collectives import World
from hardpoint.contract.errors import ConfigError

#: A rank may load weights for minutes while the others wait for it in the first collective.
TIMEOUT: Final = timedelta(minutes=30)

C = TypeVar("C", bound="TransportCommunicator")


class TransportFactory(Generic[C]):
    """Joins a world through a store of its own.

    Args:
        world: ``address`` is where rank 0 serves the store.
        opened: (store, rank, size) -> the communicator of one group; no other group uses that store.

    Raises:
        ConfigError: when the address is not ``host:port``.
    """

    def __init__(self, world: World, opened: Callable[[Store, int, int], C]) -> None:
        self._world = world
        self._open = opened
        host, port = host_and_port(world)
        self._store = TCPStore(host, port, world.size, is_master=world.rank == 0, timeout=TIMEOUT)
        self._opened: dict[str, int] = {}

    def group(self, purpose: str, ranks: tuple[int, ...]) -> C:
        """Open the group of ``ranks``; every one of them must call this, with the same arguments, in the same order.

        Raises:
            ConfigError: when this rank is not in ``ranks``.
        """
        if self._world.rank not in ranks:
            raise ConfigError(f"rank {self._world.rank} is not in the {purpose} group {ranks}")
        key = f"{purpose}:{','.join(map(str, ranks))}"
        generation = self._opened[key] = self._opened.get(key, 0) + 1
        return self._open(PrefixStore(f"{key}:{generation}", self._store), ranks.index(self._world.rank), len(ranks))

    def close(self) -> None:
        """Leave the world. Groups are closed on their own."""
        del self._store


def host_and_port(world: World) -> tuple[str, int]:
    """Return where the rendezvous is.

    Raises:
        ConfigError: when the address is not ``host:port``.
    """
    host, colon, port = world.address.rpartition(":")
    if not colon or not port.isdigit():
        raise ConfigError(f"the rendezvous address is {world.address!r}; it must be host:port")
    return host, int(port)


class TransportCommunicator:
    """One group of ranks; a transport's package adds the sums, which transports differ in.

    Args:
        transport: one of ``torch.distributed``'s process groups, ready for use.
        rank: place in the group.
        size: ranks in the group.
    """

    def __init__(self, transport: Any, rank: int, size: int) -> None:
        self.rank = rank
        self.size = size
        self._transport: Any = transport

    @property
    def transport(self) -> Any:
        """The process group.

        Raises:
            RuntimeError: when this group is closed.
        """
        if self._transport is None:
            raise RuntimeError("this group is closed")
        return self._transport

    def broadcast(self, x: torch.Tensor, source: int) -> torch.Tensor:
        """Return ``source``'s tensor, in ``x``'s memory if that is contiguous."""
        x = x.contiguous()
        options = BroadcastOptions()
        options.rootRank = source
        options.asyncOp = False
        self._queued(self.transport.broadcast([x], options))
        return x

    @staticmethod
    def _queued(work: Any) -> None:
        """Wait for a collective as far as its transport asks for it: one that runs on the current stream gives no work."""
        if work is not None:
            work.wait()

    def check_parts(self, x: torch.Tensor, dim: int) -> None:
        """Check that ``x`` can be cut into a part for each rank.

        Raises:
            ValueError: when it cannot.
        """
        if x.shape[dim] % self.size:
            raise ValueError(f"{x.shape[dim]} rows cannot be cut into {self.size} equal parts")

    def close(self) -> None:
        """Leave the group; it can be opened again through the factory."""
        self._transport = None
