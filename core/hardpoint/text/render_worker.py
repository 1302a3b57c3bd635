"""The process that renders chat templates: one job at a time, with bounded memory and processor time."""

from __future__ import annotations

import math
import resource
import time
from pathlib import Path

import zmq

from hardpoint.executor.child import receive_orders
from hardpoint.text.render_messages import RendererReady, RenderFailed, RenderJob, RenderLimits
from hardpoint.text.sandbox import Sandbox
from hardpoint.wire import Decoder, encode


def main() -> None:
    """Render until the parent goes away."""
    orders = receive_orders()
    limits = Decoder[RenderLimits](RenderLimits).decode(orders.body)
    context = zmq.Context()
    inbox, outbox = context.socket(zmq.PULL), context.socket(zmq.PUSH)
    inbox.connect(orders.inbox)
    outbox.connect(orders.outbox)
    sandbox = Sandbox(limits.output)
    jobs: Decoder[RenderJob] = Decoder(RenderJob)
    bound_memory(limits.memory)
    outbox.send(encode(RendererReady()))
    while True:
        job = jobs.decode(inbox.recv())
        bound_time(limits.seconds)
        outbox.send(_answer(sandbox, job))


def bound_memory(extra: int) -> None:
    """Allow ``extra`` bytes of address space beyond what this process has now, where the system can say how much."""
    status = Path("/proc/self/statm")
    if status.exists():
        now = int(status.read_text().split()[0]) * resource.getpagesize()
        _lower(resource.RLIMIT_AS, now + extra)


def bound_time(seconds: float) -> None:
    """Have the system end this process when it has used ``seconds`` more of processor time.

    The parent's deadline comes first; this one holds when the parent is gone and the interpreter sits in one long operation.
    """
    _lower(resource.RLIMIT_CPU, math.ceil(time.process_time() + seconds) + 1)


def _lower(kind: int, limit: int) -> None:
    """Set a soft limit; the hard one stays as whoever started this process left it."""
    _, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def _answer(sandbox: Sandbox, job: RenderJob) -> bytes:
    try:
        return encode(sandbox.run(job))
    except MemoryError:
        return encode(RenderFailed("limit", "its output does not fit into memory"))
    except UnicodeEncodeError:
        return encode(RenderFailed("failed", "its output holds half of a surrogate pair, which is no character"))


if __name__ == "__main__":
    main()
