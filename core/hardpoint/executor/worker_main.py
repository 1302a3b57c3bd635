"""A worker process: one rank, driven over ZMQ by :class:`hardpoint.executor.multi_process.MultiProcessExecutor`."""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Callable
from functools import partial

import zmq

from hardpoint.contract.runner import Pending, Runner
from hardpoint.executor.child import receive_orders
from hardpoint.executor.launch import RunnerLaunch, open_runner
from hardpoint.executor.worker_protocol import (
    Command,
    Describe,
    Failed,
    GetBlockBytes,
    GetKVBudget,
    GetKVSpecs,
    Idle,
    Load,
    Reply,
    RunStep,
    Start,
    StartProfile,
    StopProfile,
    rank_path,
)
from hardpoint.wire import Decoder, encode


def main() -> None:
    """Serve commands until the parent goes away."""
    orders = receive_orders()
    context = zmq.Context()
    inbox, outbox = context.socket(zmq.PULL), context.socket(zmq.PUSH)
    outbox.set(zmq.SNDHWM, 0)
    inbox.set(zmq.RCVHWM, 0)
    inbox.bind(orders.inbox)
    outbox.bind(orders.outbox)
    try:
        launch = Decoder[RunnerLaunch](RunnerLaunch).decode(orders.body)
        _serve(open_runner(launch), launch.world.rank, inbox, outbox)
    except BaseException as error:
        outbox.send(encode(Failed(type(error).__name__, str(error), traceback.format_exc())))
        outbox.close(linger=2000)
        raise


def _serve(runner: Runner, rank: int, inbox: zmq.Socket[bytes], outbox: zmq.Socket[bytes]) -> None:
    commands: Decoder[Command] = Decoder(Command)
    in_flight: deque[Pending] = deque()
    while True:
        # Take the next step before waiting for the last one, so that the device always has work queued.
        if in_flight and (len(in_flight) > 1 or not inbox.poll(0)):
            result = in_flight.popleft().result()
            if rank == 0:
                outbox.send(encode(Reply(encode(result))))
            continue
        command = commands.decode(inbox.recv())
        if isinstance(command, RunStep):
            in_flight.append(runner.step(command.plan))
        else:
            outbox.send(encode(Reply(encode(_answer(runner, rank, command)))))


def _answer(runner: Runner, rank: int, command: Command) -> object:
    match command:
        case Load():
            runner.load()
            return None
        case GetKVSpecs():
            return runner.kv_specs()
        case GetBlockBytes():
            return runner.block_bytes(command.spec, command.block_size)
        case GetKVBudget():
            return runner.kv_budget()
        case Start():
            runner.start(command.kv)
            return None
        case Describe():
            return dict(runner.describe())
        case Idle():
            return runner.idle()
        case StartProfile():
            return _profiled(runner.start_profile)
        case StopProfile():
            return _profiled(partial(runner.stop_profile, rank_path(command.path, rank)))
        case _:
            raise TypeError(f"a worker does not know the command {command!r}")


def _profiled(call: Callable[[], None]) -> str | None:
    """Return why a profile could not be taken; that is no reason to end the worker."""
    try:
        call()
    except (OSError, RuntimeError, ValueError) as error:
        return str(error)
    return None


if __name__ == "__main__":
    main()
