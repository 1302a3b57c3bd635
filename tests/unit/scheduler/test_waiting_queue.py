"""The queue, the policies, the table of stop ids."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hardpoint.config import EngineConfig
from hardpoint.contract.policy import RequestView, SchedulingPolicy
from hardpoint.plugins import Catalogue
from hardpoint.scheduler.queue import WaitingQueue
from hardpoint.scheduler.stops import StopTable


class Waiting(SimpleNamespace):
    """A stand-in for a sequence: a key, a number, an identity."""

    __hash__ = object.__hash__
    __eq__ = object.__eq__


def waiting(key: float, order: int) -> Any:
    return Waiting(key=(key,), order=order)


def drain(queue: WaitingQueue) -> list[int]:
    orders = []
    while (first := queue.peek()) is not None:
        orders.append(first.order)
        queue.remove(first)
    return orders


def test_order_is_by_key_then_by_number():
    queue = WaitingQueue()
    for key, order in [(2, 0), (1, 1), (1, 2), (0, 3)]:
        queue.push(waiting(key, order))
    assert drain(queue) == [3, 1, 2, 0]


def test_sequences_leave_at_any_place_and_may_return():
    generator = random.Random(0)
    queue, all_of_them = WaitingQueue(), [waiting(i % 7, i) for i in range(500)]
    for sequence in all_of_them:
        queue.push(sequence)
    gone = generator.sample(all_of_them, 450)
    for sequence in gone:
        queue.remove(sequence)
    assert len(queue._heap) < 300
    for sequence in gone[:20]:
        sequence.key = (-1.0,)
        queue.push(sequence)
    assert len(queue) == 70
    expected = sorted((s for s in all_of_them if s in queue), key=lambda s: (s.key, s.order))
    assert drain(queue) == [sequence.order for sequence in expected]


def test_removing_what_is_not_there_is_an_error():
    with pytest.raises(KeyError):
        WaitingQueue().remove(waiting(0, 0))


def view(order: int, *, priority: int = 0, arrival: float = 0.0) -> RequestView:
    return RequestView(
        request_id="", arrival=arrival, order=order, priority=priority, num_prompt=1, max_tokens=1, tenant=""
    )


def policy(name: str) -> SchedulingPolicy:
    return Catalogue.of(EngineConfig.of().plugins).create("schedulers", name)


def test_fcfs_is_loaded_through_the_catalogue_and_orders_by_number():
    assert policy("fcfs").key(view(1, priority=5, arrival=9.0)) < policy("fcfs").key(view(2))


def test_priority_orders_by_priority_then_arrival():
    key = policy("priority").key
    views = [view(0, priority=1, arrival=5.0), view(1, priority=1, arrival=4.0), view(2, priority=0, arrival=9.0)]
    assert [v.order for v in sorted(views, key=key)] == [2, 1, 0]


def test_stop_ids_are_counted():
    table = StopTable(10)
    table.add((3, 5))
    table.add((3, 99, -1))
    tokens = np.array([[3, 5], [4, 99], [-1, 0]], np.int32)
    assert table.candidates(tokens).tolist() == [[True, True], [False, False], [False, False]]
    table.remove((3, 5))
    assert table.candidates(tokens[0]).tolist() == [True, False]
    table.remove((3, 99, -1))
    assert table.empty
    assert not table.candidates(tokens).any()
