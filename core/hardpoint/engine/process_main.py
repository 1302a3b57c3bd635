"""The engine in a process of its own, driven over ZMQ by :class:`hardpoint.engine.process.ProcessClient`."""

from __future__ import annotations

import logging
import traceback

import zmq

from hardpoint.config import EngineConfig
from hardpoint.engine.assembly import assemble
from hardpoint.engine.loop import EngineLoop
from hardpoint.engine.messages import (
    Abort,
    EngineRequest,
    PrefixCacheReset,
    Ready,
    ResetPrefixCache,
    Shutdown,
    ToEngine,
)
from hardpoint.executor.child import receive_orders
from hardpoint.executor.worker_protocol import Failed
from hardpoint.wire import Decoder, encode


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
    while True:
        # Without work the process sleeps in recv; with work it only looks whether something came.
        while not loop.has_work or inbox.poll(0):
            message = messages.decode(inbox.recv())
            match message:
                case EngineRequest():
                    loop.add(message)
                case Abort():
                    loop.abort(message.handles)
                case ResetPrefixCache():
                    outbox.send(encode(PrefixCacheReset(loop.reset_prefix_cache())))
                case Shutdown():
                    loop.close()
                    return
        outputs = loop.step()
        if outputs is not None:
            outbox.send(encode(outputs))


if __name__ == "__main__":
    main()
