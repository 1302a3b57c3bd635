"""Trying plugins out in processes of their own, so that none of them can hurt the caller."""

from __future__ import annotations

import contextlib
import queue
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import IO

import msgspec

from hardpoint.plugins.record import Record, Selection


class DeviceLine(msgspec.Struct, frozen=True):
    """What a platform says of one device. ``total_bytes`` is ``None`` when it does not know."""

    index: int
    name: str
    arch: str
    total_bytes: int | None


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """How trying one plugin went.

    Attributes:
        plugin: which one.
        seconds: that importing (and, for platforms, probing) it took.
        error: first line of what went wrong, ``None`` when it can be used.
        absent: why a platform has no device here; it works otherwise.
        missing: what it needs that is not installed, and the way to it.
        devices: of a platform that can be used.
        summary: the descriptor's.
    """

    plugin: Selection
    seconds: float
    error: str | None = None
    absent: str | None = None
    missing: str | None = None
    devices: tuple[DeviceLine, ...] = ()
    summary: str = ""

    @property
    def state(self) -> str:
        """``"works"``, ``"broken"``, ``"missing"``, or ``"no device"`` for a platform that is none on this machine."""
        if self.error:
            return "broken"
        return "missing" if self.missing else "no device" if self.absent else "works"

    @property
    def reason(self) -> str:
        """Why the state is not ``"works"``; empty when it is."""
        return self.error or self.missing or self.absent or ""


def check(records: Iterable[Record], timeout: float) -> Iterator[Checked]:
    """Import every plugin that may be loaded, and probe platforms; yield one result each.

    The plugins of one distribution share a process, which is started anew after one that crashed or hung.

    Args:
        records: from a catalogue; those that may not be loaded are left out.
        timeout: seconds for one plugin.
    """
    waiting: dict[str, list[Selection]] = defaultdict(list)
    for record in records:
        if record.usable:
            waiting[record.distribution].append(record.identity)
    for plugins in waiting.values():
        while plugins:
            for result in _run(plugins, timeout):
                plugins.pop(0)
                yield result


def _run(plugins: list[Selection], timeout: float) -> Iterator[Checked]:
    """Yield results until the process is through, or until one plugin ends it."""
    # -P keeps the working directory off the path: what is checked is what is installed.
    command = [sys.executable, "-P", "-m", "hardpoint.plugins.check_main"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        noise: list[bytes] = []
        threads = [
            threading.Thread(target=_forward, args=(process.stdout, lines), daemon=True),
            threading.Thread(target=_keep, args=(process.stderr, noise), daemon=True),
        ]
        for thread in threads:
            thread.start()
        try:
            with contextlib.suppress(BrokenPipeError):  # it died already; that is told below
                process.stdin.write(msgspec.json.encode(plugins))
                process.stdin.close()
            for plugin in list(plugins):
                began = time.monotonic()
                try:
                    line = lines.get(timeout=timeout)
                except queue.Empty:
                    yield Checked(plugin=plugin, seconds=timeout, error=f"no answer within {timeout:g} s")
                    return
                if not line:
                    yield Checked(
                        plugin=plugin, seconds=time.monotonic() - began, error=_death(process, threads, noise)
                    )
                    return
                yield msgspec.json.decode(line, type=Checked)
        finally:
            process.kill()


def _forward(stream: IO[bytes], lines: queue.SimpleQueue[bytes]) -> None:
    for line in stream:
        lines.put(line)
    lines.put(b"")


def _keep(stream: IO[bytes], noise: list[bytes]) -> None:
    for line in stream:
        noise[:] = [*noise[-19:], line]


def _death(process: subprocess.Popen[bytes], threads: list[threading.Thread], noise: list[bytes]) -> str:
    code = process.wait()
    for thread in threads:
        thread.join(timeout=1)
    said = [line.decode(errors="replace").strip() for line in noise if line.strip()]
    how = f"signal {-code}" if code < 0 else f"exit status {code}"
    return f"its process ended with {how}" + (f": {said[-1]}" if said else "")
