"""Child processes: started without pickle and without re-running the caller's main module, ended with their parent.

A child is ``python -m MODULE``. Its orders come as one length-prefixed message on standard input, which then stays open
as a lifeline: when it closes, the parent is gone and the child ends itself.
"""

from __future__ import annotations

import contextlib
import os
import signal
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path

import msgspec
import zmq

from hardpoint.wire import Decoder, encode

_LENGTH = struct.Struct("<Q")


class ChildOrders(msgspec.Struct, frozen=True, kw_only=True):
    """What every child is told first.

    Attributes:
        path: ``sys.path`` of the parent, so that both see the same installed plugins.
        inbox: address from which the child receives.
        outbox: address to which the child sends.
        folder: where the child keeps temporary files, so that they go when the parent cleans up after it.
        affinity: cores to which the child binds itself before anything is imported; empty leaves it alone.
        body: the module's own orders, encoded.
    """

    path: list[str]
    inbox: str
    outbox: str
    folder: str
    affinity: tuple[int, ...] = ()
    body: bytes = b""


class ChildProcess:
    """A running child and the folder that holds its sockets.

    Args:
        module: module to run, e.g. ``"hardpoint.engine.process_main"``.
        name: what it is called in errors.
        body: the module's own orders, encoded.
        env: further environment variables.
        affinity: cores for the child.
    """

    def __init__(
        self,
        module: str,
        *,
        name: str,
        body: bytes,
        env: Mapping[str, str] | None = None,
        affinity: tuple[int, ...] = (),
    ) -> None:
        self.name = name
        self._folder = tempfile.TemporaryDirectory(prefix="hardpoint-")
        self.to_child = f"ipc://{Path(self._folder.name) / 'in'}"
        self.from_child = f"ipc://{Path(self._folder.name) / 'out'}"
        orders = encode(
            ChildOrders(
                path=list(sys.path),
                inbox=self.to_child,
                outbox=self.from_child,
                folder=self._folder.name,
                affinity=affinity,
                body=body,
            )
        )
        self._process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            env={**os.environ, **(env or {})},
            start_new_session=True,
        )
        assert self._process.stdin is not None
        self._process.stdin.write(_LENGTH.pack(len(orders)) + orders)
        self._process.stdin.flush()

    @property
    def pid(self) -> int:
        return self._process.pid

    def death(self) -> str | None:
        """Return how the child ended, or ``None`` while it runs."""
        code = self._process.poll()
        if code is None:
            return None
        if code < 0:
            hint = "; the machine may be out of memory" if -code == signal.SIGKILL else ""
            return f"{self.name} (pid {self.pid}) was killed by {signal.Signals(-code).name}{hint}"
        return f"{self.name} (pid {self.pid}) ended with exit code {code}"

    def close(self, timeout: float = 5.0, *, told: bool = False) -> None:
        """End the child: close its lifeline, wait, then kill it. May be called more than once.

        Args:
            timeout: seconds to wait before it is killed.
            told: whether the child was told to end by a message; then it gets as long before its lifeline is closed.
        """
        if told:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout)
        if self._process.stdin is not None and not self._process.stdin.closed:
            try:
                self._process.stdin.close()
            except BrokenPipeError:
                self._process.stdin = None
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._folder.cleanup()


def socket_to(context: zmq.Context[zmq.Socket[bytes]], kind: int, address: str) -> zmq.Socket[bytes]:
    """Return the parent's end of a channel to a child.

    The parent connects and the child binds: then a message can be queued before the child is up, and neither a child that
    never comes up nor one that died makes sending block.
    """
    socket = context.socket(kind)
    socket.set(zmq.SNDHWM, 0)
    socket.set(zmq.RCVHWM, 0)
    socket.set(zmq.RECONNECT_IVL, 5)
    socket.connect(address)
    return socket


def receive_orders() -> ChildOrders:
    """In a child: read the orders, take over the parent's ``sys.path``, and end with the parent."""
    source = sys.stdin.buffer
    (length,) = _LENGTH.unpack(source.read(_LENGTH.size))
    orders = Decoder[ChildOrders](ChildOrders).decode(source.read(length))
    sys.path[:] = orders.path
    tempfile.tempdir = orders.folder
    if orders.affinity and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, orders.affinity)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, name="lifeline", daemon=True).start()
    return orders


def _end_with_parent() -> None:
    # Not through sys.stdin: its lock, held by this thread, would end the interpreter's own shutdown with an abort.
    while os.read(sys.stdin.fileno(), 1):
        continue
    os._exit(0)
