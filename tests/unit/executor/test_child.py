"""Child processes say how they ended, end with their parent, and leave nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import zmq

from hardpoint.executor.child import ChildProcess, socket_to

ECHO = """
import zmq
from hardpoint.executor.child import receive_orders

orders = receive_orders()
context = zmq.Context()
inbox, outbox = context.socket(zmq.PULL), context.socket(zmq.PUSH)
inbox.bind(orders.inbox)
outbox.bind(orders.outbox)
while True:
    outbox.send(orders.body + inbox.recv())
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Write a module that a child can run; ``sys.path`` travels through PYTHONPATH for ``-m``."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def write(code: str) -> str:
        (tmp_path / "child_under_test.py").write_text(textwrap.dedent(code))
        return "child_under_test"

    return write


def wait_for(condition: Callable[[], object], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def test_messages_sent_before_the_child_is_up_arrive(module: Callable[[str], str]) -> None:
    child = ChildProcess(module(ECHO), name="echo", body=b"got ")
    context = zmq.Context()
    try:
        to_child = socket_to(context, zmq.PUSH, child.to_child)
        from_child = socket_to(context, zmq.PULL, child.from_child)
        to_child.send(b"this")
        assert from_child.poll(20_000)
        assert from_child.recv() == b"got this"
        assert child.death() is None
    finally:
        child.close()
        context.destroy(linger=0)
    assert child.death() is not None


def test_a_killed_child_says_so_and_sending_to_it_does_not_block(module: Callable[[str], str]) -> None:
    child = ChildProcess(module(ECHO), name="echo process", body=b"")
    context = zmq.Context()
    to_child = socket_to(context, zmq.PUSH, child.to_child)
    os.kill(child.pid, signal.SIGKILL)
    wait_for(child.death)
    for _ in range(2000):
        to_child.send(b"x" * 1000)
    assert "echo process" in str(child.death())
    assert "SIGKILL" in str(child.death())
    child.close()
    context.destroy(linger=0)


def test_a_child_that_exits_names_its_code(module: Callable[[str], str]) -> None:
    child = ChildProcess(module("raise SystemExit(3)"), name="quitter", body=b"")
    wait_for(child.death)
    assert "exit code 3" in str(child.death())
    child.close()


def test_a_child_ends_with_its_parent(module: Callable[[str], str], tmp_path: Path) -> None:
    """Killing the parent closes the lifeline, and the child goes."""
    name = module(ECHO)
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time\n"
            "from hardpoint.executor.child import ChildProcess\n"
            f"child = ChildProcess({name!r}, name='c', body=b'')\n"
            "print(child.pid, flush=True)\n"
            "time.sleep(60)\n",
        ],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    wait_for(lambda: not Path(f"/proc/{pid}").exists() or "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text())
