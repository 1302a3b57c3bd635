"""The engine in a process of its own, driven over ZMQ by :class:`hardpoint.engine.process.ProcessClient`."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from functools import partial

import zmq

from hardpoint.config import EngineConfig
from hardpoint.engine.assembly import assemble
from hardpoint.engine.loop import EngineLoop
from hardpoint.engine.messages import (
    Abort,
    EngineRequest,
    PrefixCacheReset,
    Profiled,
    Ready,
    ResetPrefixCache,
    Shutdown,
    StartProfile,
    StopProfile,
    ToEngine,
)
from hardpoint.executor.child import receive_orders
from hardpoint.executor.worker_protocol import Failed
from hardpoint.wire import Decoder, encode

log = logging.getLogger(__name__)


def main() -> None:
    """Assemble the engine and serve until told to stop or until the parent goes away."""
    orders = receive_orders()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    context = zmq.Context()
    inbox, outbox = context.socket(zmq.PULL), context.socket(zmq.PUSH)
    outbox.set(zmq.SNDHWM, 0)
    inbox.set(zmq.RCVHWM, 0)
    inbox.bind(orders.inbox)
    outbox.bind(orders.outbox)
    try:
        loop, info = assemble(Decoder[EngineConfig](EngineConfig).decode(orders.body))
        outbox.send(encode(Ready(info)))
        _serve(loop, inbox, outbox)
    except BaseException as error:
        outbox.send(encode(Failed(type(error).__name__, str(error), traceback.format_exc())))
        outbox.close(linger=2000)
        raise SystemExit(1) from error


def _serve(loop: EngineLoop, inbox: zmq.Socket[bytes], outbox: zmq.Socket[bytes]) -> None:
    messages: Decoder[ToEngine] = Decoder(ToEngine)
    rested = False
    while True:
        # Without work the process makes later steps faster, then sleeps in recv; with work it only looks for messages.
        while not loop.has_work or inbox.poll(0):
            if not (rested or loop.has_work or inbox.poll(0)):
                rested = not loop.idle()
                continue
            message = messages.decode(inbox.recv())
            match message:
                case EngineRequest():
                    loop.add(message)
                case Abort():
                    loop.abort(message.handles)
                case ResetPrefixCache():
                    outbox.send(encode(PrefixCacheReset(loop.reset_prefix_cache())))
                case StartProfile():
                    outbox.send(encode(_profiled(loop.start_profile)))
                case StopProfile():
                    outbox.send(encode(_profiled(partial(loop.stop_profile, message.path))))
                case Shutdown():
                    loop.close()
                    return
        rested = False
        outputs = loop.step()
        if outputs is not None:
            outbox.send(encode(outputs))


def _profiled(call: Callable[[], None]) -> Profiled:
    """Return how a call went; recording that cannot be done is no reason to end the engine."""
    try:
        call()
    except (OSError, RuntimeError, ValueError) as error:
        log.exception("a profile could not be taken")
        return Profiled(f"{type(error).__name__}: {error}")
    return Profiled()


if __name__ == "__main__":
    main()
