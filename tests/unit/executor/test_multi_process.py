"""Answers of several workers may come in any order; none is lost, and a failure is told at once."""

from __future__ import annotations

from collections import deque
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardpoint.contract.errors import CheckpointError, WorkerDiedError
from hardpoint.contract.kv import KVSpec
from hardpoint.executor.multi_process import MultiProcessExecutor
from hardpoint.executor.worker_protocol import Answer, Failed, GetBlockBytes, Reply
from hardpoint.wire import Decoder, encode

SPEC = KVSpec(num_kv_heads=1, head_size=8, dtype="float32")


class Line:
    """A worker whose answers come after some polls."""

    def __init__(self, answers: list[tuple[int, Answer]], death: str | None = None) -> None:
        self._due = answers
        self._polls = 0
        self.child = SimpleNamespace(death=lambda: death, close=lambda: None)
        self.commands = SimpleNamespace(send=lambda message: None)
        self.answers = self
        self.replies: deque[bytes] = deque()

    def poll(self, milliseconds: int) -> bool:
        self._polls += 1
        return bool(self._due) and self._due[0][0] <= self._polls

    def recv(self) -> bytes:
        return encode(self._due.pop(0)[1])


def executor(*lines: Line) -> MultiProcessExecutor:
    made = MultiProcessExecutor.__new__(MultiProcessExecutor)
    attributes: dict[str, Any] = {"_workers": list(lines), "_answers": Decoder(Answer)}
    vars(made).update(attributes)
    return made


@given(st.lists(st.integers(0, 12), min_size=1, max_size=5))
def test_answers_in_any_order_are_all_kept(delays: list[int]) -> None:
    lines = [Line([(delay, Reply(encode(rank)))]) for rank, delay in enumerate(delays)]
    assert executor(*lines)._call(GetBlockBytes(SPEC, 16), int) == list(range(len(delays)))


def test_a_failure_of_any_rank_is_told_at_once_and_as_what_it_was() -> None:
    lines = [Line([]), Line([(3, Failed("CheckpointError", "tensor x is missing"))])]
    with pytest.raises(CheckpointError, match="tensor x is missing"):
        executor(*lines)._call(GetBlockBytes(SPEC, 16), int)


def test_a_dead_rank_is_told_by_its_last_words_or_by_its_end() -> None:
    said = Line([(2, Failed("CheckpointError", "damaged"))], death="worker of rank 1 ended with exit code 1")
    with pytest.raises(CheckpointError, match="damaged"):
        executor(Line([]), said)._call(GetBlockBytes(SPEC, 16), int)
    silent = Line([], death="worker of rank 1 was killed by SIGKILL")
    with pytest.raises(WorkerDiedError, match="rank 1 was killed"):
        executor(Line([]), silent)._call(GetBlockBytes(SPEC, 16), int)
