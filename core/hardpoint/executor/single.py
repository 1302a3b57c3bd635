"""Collectives of a world of one: every operation is the identity."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


class SingleRank:
    """A group of one rank."""

    rank = 0
    size = 1

    def all_reduce(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def all_gather(self, x: torch.Tensor, dim: int) -> torch.Tensor:
        return x

    def reduce_scatter(self, x: torch.Tensor, dim: int) -> torch.Tensor:
        return x

    def broadcast(self, x: torch.Tensor, source: int) -> torch.Tensor:
        return x

    def barrier(self) -> None:
        """Return at once: everybody is here."""

    def close(self) -> None:
        """Nothing is open."""


class SingleRankFactory:
    """Opens groups of one rank."""

    def group(self, purpose: str, ranks: tuple[int, ...]) -> SingleRank:
        """Return the group.

        Raises:
            ValueError: when ``ranks`` is not ``(0,)``.
        """
        if ranks != (0,):
            raise ValueError(f"a world of one has rank 0 only; the {purpose} group asks for {ranks}")
        return SingleRank()

    def close(self) -> None:
        """Nothing is open."""
