"""Collectives over gloo, for several ranks on one machine or several."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

import torch
from torch.distributed import BroadcastOptions, PrefixStore, ProcessGroupGloo, Store, TCPStore  # type: ignore[attr-defined]

from hardpoint.contract.collectives import World
from hardpoint.contract.errors import ConfigError

#: A rank may load weights for minutes while the others wait for it in the first collective.
TIMEOUT: Final = timedelta(minutes=30)
LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")


class GlooFactory:
    """Joins a world through a store of its own, without torch's global default group, so that it can be left and joined.

    Args:
        world: ``address`` is where rank 0 serves the store.

    Raises:
        ConfigError: when the address is not ``host:port``.
    """

    def __init__(self, world: World) -> None:
        host, colon, port = world.address.rpartition(":")
        if not colon or not port.isdigit():
            raise ConfigError(f"the rendezvous address is {world.address!r}; it must be host:port")
        self._world = world
        self._host = host
        self._store = TCPStore(host, int(port), world.size, is_master=world.rank == 0, timeout=TIMEOUT)
        self._opened: dict[str, int] = {}

    def group(self, purpose: str, ranks: tuple[int, ...]) -> GlooCommunicator:
        """Open the group of ``ranks``; every one of them must call this, with the same arguments, in the same order.

        Raises:
            ConfigError: when this rank is not in ``ranks``.
        """
        if self._world.rank not in ranks:
            raise ConfigError(f"rank {self._world.rank} is not in the {purpose} group {ranks}")
        key = f"{purpose}:{','.join(map(str, ranks))}"
        generation = self._opened[key] = self._opened.get(key, 0) + 1
        store = PrefixStore(f"{key}:{generation}", self._store)
        return GlooCommunicator(store, ranks.index(self._world.rank), len(ranks), self._options())

    def _options(self) -> Any:
        """Return gloo's options: on one machine it keeps to loopback, where nothing has to be resolved by name."""
        options = ProcessGroupGloo._Options()  # type: ignore[attr-defined]
        options._timeout = TIMEOUT
        if self._host in LOOPBACK:
            options._devices = [ProcessGroupGloo.create_device(hostname=self._host)]
        else:
            options._devices = [ProcessGroupGloo.create_default_device()]
        return options

    def close(self) -> None:
        """Leave the world. Groups are closed on their own."""
        del self._store


class GlooCommunicator:
    """One group of ranks.

    Args:
        store: where the ranks find each other; not used by any other group.
        rank: place in the group.
        size: ranks in the group.
        options: gloo's.
    """

    def __init__(self, store: Store, rank: int, size: int, options: Any) -> None:
        self.rank = rank
        self.size = size
        self._group: Any = ProcessGroupGloo(store, rank, size, options)

    def all_reduce(self, x: torch.Tensor) -> torch.Tensor:
        """Return the sum over ranks, in ``x``'s memory if that is contiguous; 16-bit values are summed in float32."""
        if x.dtype in (torch.bfloat16, torch.float16):
            return self.all_reduce(x.float()).to(x.dtype)
        x = x.contiguous()
        self._open().allreduce([x]).wait()
        return x

    def all_gather(self, x: torch.Tensor, dim: int) -> torch.Tensor:
        """Return the ranks' tensors, of equal shapes, concatenated along ``dim`` in rank order."""
        x = x.contiguous()
        parts = [torch.empty_like(x) for _ in range(self.size)]
        self._open().allgather([parts], [x]).wait()
        return torch.cat(parts, dim)

    def reduce_scatter(self, x: torch.Tensor, dim: int) -> torch.Tensor:
        """Return this rank's part of the sum over ranks, cut along ``dim``.

        Raises:
            ValueError: when ``dim`` cannot be cut into equal parts.
        """
        if x.shape[dim] % self.size:
            raise ValueError(f"{x.shape[dim]} rows cannot be cut into {self.size} equal parts")
        return self.all_reduce(x.clone()).chunk(self.size, dim)[self.rank].contiguous()

    def broadcast(self, x: torch.Tensor, source: int) -> torch.Tensor:
        """Return ``source``'s tensor, in ``x``'s memory if that is contiguous."""
        x = x.contiguous()
        options = BroadcastOptions()
        options.rootRank = source
        self._open().broadcast([x], options).wait()
        return x

    def barrier(self) -> None:
        """Wait until every rank is here."""
        self._open().barrier().wait()

    def close(self) -> None:
        """Leave the group; it can be opened again through the factory."""
        self._group = None

    def _open(self) -> Any:
        if self._group is None:
            raise RuntimeError("this group is closed")
        return self._group
