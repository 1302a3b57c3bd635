"""The policies that come with Hardpoint."""

from __future__ import annotations

from typing import ClassVar

from hardpoint.contract.policy import RequestView, SortKey


class FirstComeFirstServed:
    """Requests run in the order in which the engine got them."""

    name: ClassVar[str] = "fcfs"

    def key(self, request: RequestView) -> SortKey:
        """Return the request's number."""
        return (request.order,)


class Priority:
    """Requests with a smaller ``priority`` run first, equal ones in the order of their arrival."""

    name: ClassVar[str] = "priority"

    def key(self, request: RequestView) -> SortKey:
        """Return the request's priority, then its arrival."""
        return (request.priority, request.arrival, request.order)
