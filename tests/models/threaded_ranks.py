"""Ranks as threads of one process, with collectives that add and join in rank order."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch

T = TypeVar("T")


class _Meeting:
    """A place where ranks leave a tensor and take everybody's."""

    def __init__(self, size: int) -> None:
        self.barrier = threading.Barrier(size, timeout=60)
        self.left: list[Any] = [None] * size

    def exchange(self, rank: int, value: torch.Tensor) -> list[torch.Tensor]:
        self.left[rank] = value
        self.barrier.wait()
        everyone = list(self.left)
        self.barrier.wait()
        return everyone


class ThreadRank:
    """A contract ``Communicator`` between threads."""

    def __init__(self, meeting: _Meeting, rank: int, size: int) -> None:
        self._meeting = meeting
        self.rank = rank
        self.size = size

    def all_reduce(self, x: torch.Tensor) -> torch.Tensor:
        total = torch.zeros_like(x)
        for part in self._meeting.exchange(self.rank, x.clone()):
            total = total + part
        return total

    def all_gather(self, x: torch.Tensor, dim: int) -> torch.Tensor:
        return torch.cat(self._meeting.exchange(self.rank, x.clone()), dim)


def on_ranks(size: int, work: Callable[[ThreadRank], T]) -> list[T]:
    """Run ``work`` once per rank at the same time; return the results in rank order."""
    meeting = _Meeting(size)

    def run(rank: int) -> T:
        try:
            return work(ThreadRank(meeting, rank, size))
        except BaseException:
            meeting.barrier.abort()
            raise

    with ThreadPoolExecutor(size) as pool:
        futures = [pool.submit(run, rank) for rank in range(size)]
        errors = [error for f in futures if (error := f.exception()) is not None]
        # A rank that fails lets the others' barrier break; the cause is what matters.
        for error in errors:
            if not isinstance(error, threading.BrokenBarrierError):
                raise error
        return [future.result() for future in futures]
