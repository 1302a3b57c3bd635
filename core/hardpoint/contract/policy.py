"""Scheduling policies: the order of the queue, and whom to preempt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

SortKey = tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestView:
    """What a policy may know about a request. ``arrival`` is seconds on the engine's monotonic clock; ``order`` counts."""

    request_id: str
    arrival: float
    order: int
    priority: int
    num_prompt: int
    max_tokens: int
    tenant: str


@runtime_checkable
class SchedulingPolicy(Protocol):
    """Orders requests by a key that is computed once, when a request joins the queue (and again after a preemption).

    The smallest key runs first; the largest key among the running is preempted first. A policy that fails at load or at
    run time ends the engine: silently ignoring a policy would break what it guarantees.
    """

    name: ClassVar[str]

    def key(self, request: RequestView) -> SortKey: ...
