"""Collectives between the ranks of one model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Where a rank stands. ``address`` is ``"host:port"`` of the rendezvous, empty for a world of one."""

    rank: int = 0
    size: int = 1
    address: str = ""


@runtime_checkable
class Communicator(Protocol):
    """One group of ranks with one purpose (tensor, expert, pipeline or data parallel)."""

    rank: int
    size: int

    def all_reduce(self, x: torch.Tensor) -> torch.Tensor:
        """Return the sum over ranks; may reuse ``x``'s memory."""

    def all_gather(self, x: torch.Tensor, dim: int) -> torch.Tensor:
        """Return the ranks' tensors concatenated along ``dim`` in rank order."""

    def reduce_scatter(self, x: torch.Tensor, dim: int) -> torch.Tensor: ...
    def broadcast(self, x: torch.Tensor, source: int) -> torch.Tensor: ...
    def barrier(self) -> None: ...
    def close(self) -> None: ...


class CommunicatorFactory(Protocol):
    """Opens groups for a device that joined a world."""

    def group(self, purpose: str, ranks: tuple[int, ...]) -> Communicator: ...
    def close(self) -> None: ...
