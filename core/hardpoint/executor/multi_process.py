"""The executor for several ranks, one worker process each. Rank 0's result is the step's result."""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar, cast

import zmq

from hardpoint.contract.errors import WorkerDiedError, error_named
from hardpoint.contract.kv import KVBudget, KVPlan, KVSpec
from hardpoint.contract.platform import Platform
from hardpoint.contract.runner import Pending
from hardpoint.contract.step import StepPlan, StepResult
from hardpoint.executor.child import ChildProcess, socket_to
from hardpoint.executor.launch import RunnerLaunch
from hardpoint.executor.worker_protocol import (
    Answer,
    Command,
    Describe,
    Failed,
    GetBlockBytes,
    GetKVBudget,
    GetKVSpecs,
    Idle,
    Load,
    RunStep,
    Start,
    StartProfile,
    StopProfile,
)
from hardpoint.plugins import Catalogue
from hardpoint.wire import Decoder, encode

T = TypeVar("T")
_POLL_MS = 200


class _Worker:
    """One rank's process and its sockets."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], child: ChildProcess) -> None:
        self.child = child
        self.commands = socket_to(context, zmq.PUSH, child.to_child)
        self.answers = socket_to(context, zmq.PULL, child.from_child)
        self.replies: deque[bytes] = deque()

    def close(self) -> None:
        self.commands.close(linger=0)
        self.answers.close(linger=0)
        self.child.close()


class MultiProcessExecutor:
    """Drives one worker process per launch.

    Args:
        launches: the ranks' orders, in rank order; an empty rendezvous address is filled in.
    """

    def __init__(self, launches: tuple[RunnerLaunch, ...]) -> None:
        config = launches[0].config
        platform = cast("Platform", Catalogue.of(config.plugins).create("platforms", config.platform.platform))
        how = platform.launch(config)
        address = f"127.0.0.1:{_free_port()}"
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._answers: Decoder[Answer] = Decoder(Answer)
        self._results: Decoder[StepResult] = Decoder(StepResult)
        self._workers: list[_Worker] = []
        for rank, launch in enumerate(launches):
            placed = replace(launch, world=replace(launch.world, address=launch.world.address or address))
            child = ChildProcess(
                "hardpoint.executor.worker_main",
                name=f"worker of rank {rank}",
                body=encode(placed),
                env=how.env,
                affinity=how.affinity[rank] if rank < len(how.affinity) else (),
            )
            self._workers.append(_Worker(self._context, child))

    def load(self) -> None:
        self._call(Load(), type(None))

    def kv_specs(self) -> tuple[KVSpec, ...]:
        specs: tuple[KVSpec, ...] = self._call(GetKVSpecs(), tuple[KVSpec, ...])[0]
        return specs

    def block_bytes(self, spec: KVSpec, block_size: int) -> int:
        count: int = self._call(GetBlockBytes(spec, block_size), int)[0]
        return count

    def kv_budget(self) -> KVBudget:
        """Return the smallest of the ranks' budgets."""
        budgets: list[KVBudget] = self._call(GetKVBudget(), KVBudget)
        return min(budgets, key=lambda b: b.bytes if b.bytes is not None else b.num_blocks or 0)

    def start(self, kv: KVPlan) -> None:
        self._call(Start(kv), type(None))

    def describe(self) -> Mapping[str, Any]:
        described: Mapping[str, Any] = self._call(Describe(), dict[str, Any])[0]
        return described

    def idle(self) -> bool:
        return any(self._call(Idle(), bool))

    def recover(self) -> str | None:
        """Return that it cannot be done: a rank that failed in the middle of a step left the others waiting for it."""
        return "worker processes that share a model cannot go on after a step that failed"

    def start_profile(self) -> None:
        self._profile(StartProfile())

    def stop_profile(self, path: str) -> None:
        self._profile(StopProfile(path))

    def _profile(self, command: StartProfile | StopProfile) -> None:
        """Tell every rank.

        Raises:
            RuntimeError: what a rank said of why it cannot.
        """
        if said := [told for told in self._call(command, str | None) if told is not None]:
            raise RuntimeError(said[0])

    def submit(self, plan: StepPlan) -> Pending:
        message = encode(RunStep(plan))
        for worker in self._workers:
            worker.commands.send(message)
        return _PendingStep(self)

    def check(self) -> None:
        for worker in self._workers:
            if (death := worker.child.death()) is not None:
                raise WorkerDiedError(death)

    def close(self) -> None:
        for worker in self._workers:
            worker.close()
        self._workers.clear()
        self._context.destroy(linger=0)

    def result(self) -> StepResult:
        """Wait for the oldest step's result."""
        return self._results.decode(self._receive(self._workers[0]))

    def ready(self) -> bool:
        """Return whether the oldest step's result is there."""
        worker = self._workers[0]
        return bool(worker.replies) or bool(worker.answers.poll(0))

    def _call(self, command: Command, kind: Any) -> list[Any]:
        message = encode(command)
        for worker in self._workers:
            worker.commands.send(message)
        decoder: Decoder[Any] = Decoder(kind)
        return [decoder.decode(self._receive(worker)) for worker in self._workers]

    def _receive(self, worker: _Worker) -> bytes:
        """Return the next reply of one worker; raise as soon as any worker failed or died."""
        while not worker.replies:
            self._collect(worker, _POLL_MS)
            for other in self._workers:
                self._collect(other, 0)
            if not worker.replies:
                self._last_words()
                self.check()
        return worker.replies.popleft()

    def _last_words(self) -> None:
        """Wait a moment for what a worker that ended may have said: its error tells more than its exit code."""
        for worker in self._workers:
            if worker.child.death() is not None:
                self._collect(worker, _POLL_MS)

    def _collect(self, worker: _Worker, milliseconds: int) -> None:
        """Keep a worker's next reply for whoever asks for it; raise what it failed with."""
        if not worker.answers.poll(milliseconds):
            return
        answer = self._answers.decode(worker.answers.recv())
        if isinstance(answer, Failed):
            raise error_named(answer.error_type, answer.message)
        worker.replies.append(answer.data)


class _PendingStep:
    """A step on its way; steps answer in the order of submission."""

    def __init__(self, executor: MultiProcessExecutor) -> None:
        self._executor = executor

    def ready(self) -> bool:
        return self._executor.ready()

    def result(self) -> StepResult:
        return self._executor.result()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
