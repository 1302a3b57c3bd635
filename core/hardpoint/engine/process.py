"""The client of an engine in a process of its own."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import zmq

from hardpoint.config import EngineConfig
from hardpoint.contract.errors import EngineDeadError, ProfileError, error_named
from hardpoint.engine.messages import (
    Abort,
    EngineInfo,
    EngineOutputs,
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
from hardpoint.executor.child import ChildProcess, socket_to
from hardpoint.executor.worker_protocol import Failed
from hardpoint.wire import Decoder, encode

FromEngine = EngineOutputs | PrefixCacheReset | Profiled | Ready | Failed
_POLL_MS = 200


class ProcessClient:
    """Starts an engine process and talks to it. Returns when the engine is ready.

    Args:
        config: what to run.

    Raises:
        ConfigError, PluginError, CheckpointError, ...: what the engine raised while starting, as the same class.
        EngineDeadError: when the process ended without saying why.
    """

    def __init__(self, config: EngineConfig) -> None:
        self._child = ChildProcess("hardpoint.engine.process_main", name="engine process", body=encode(config))
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._to_engine = socket_to(self._context, zmq.PUSH, self._child.to_child)
        self._from_engine = socket_to(self._context, zmq.PULL, self._child.from_child)
        self._sending, self._receiving = threading.Lock(), threading.Lock()
        self._decoder: Decoder[FromEngine] = Decoder(FromEngine)
        self._outputs: deque[EngineOutputs] = deque()
        self._resets: deque[bool] = deque()
        self._profiled: deque[Profiled] = deque()
        self._dead: str | None = None
        try:
            self.info = self._wait_ready()
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """The engine's process id."""
        return self._child.pid

    def add(self, request: EngineRequest) -> None:
        self._send(request)

    def abort(self, handles: Sequence[int]) -> None:
        self._send(Abort(list(handles)))

    def poll(self, timeout: float | None = None) -> EngineOutputs | None:
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            with self._receiving:
                if self._outputs:
                    return self._outputs.popleft()
                left = _POLL_MS if deadline is None else min(_POLL_MS, int((deadline - time.monotonic()) * 1000))
                if left < 0:
                    return None
                self._receive(left)

    def reset_prefix_cache(self) -> bool:
        self._send(ResetPrefixCache())
        while True:
            with self._receiving:
                if self._resets:
                    return self._resets.popleft()
                self._receive(_POLL_MS)

    def start_profile(self) -> None:
        self._profile(StartProfile())

    def stop_profile(self, path: str) -> None:
        self._profile(StopProfile(str(Path(path).absolute())))

    def close(self) -> None:
        with self._sending:
            alive = self._dead is None
            if alive:
                self._dead = "it was closed"
                self._to_engine.send(encode(Shutdown()))
        with self._receiving:
            if not self._context.closed:
                self._child.close(told=alive)
                self._context.destroy(linger=0)

    def _profile(self, message: StartProfile | StopProfile) -> None:
        self._send(message)
        while True:
            with self._receiving:
                if self._profiled:
                    answer = self._profiled.popleft()
                    if answer.error is not None:
                        raise ProfileError(answer.error)
                    return
                self._receive(_POLL_MS)

    def _send(self, message: ToEngine) -> None:
        with self._sending:
            if self._dead is not None:
                raise EngineDeadError(f"the engine takes no requests: {self._dead}")
            self._to_engine.send(encode(message))

    def _receive(self, milliseconds: int) -> None:
        """Take one message if it comes in time, and put it where its reader looks; notice a dead engine."""
        if self._dead is not None:
            raise EngineDeadError(self._dead)
        death = self._child.death()
        if self._from_engine.poll(0 if death else milliseconds):
            message = self._decoder.decode(self._from_engine.recv())
            match message:
                case EngineOutputs():
                    self._outputs.append(message)
                case PrefixCacheReset():
                    self._resets.append(message.complete)
                case Profiled():
                    self._profiled.append(message)
                case Failed():
                    self._dead = message.message
                    raise EngineDeadError(message.message)
                case Ready():
                    raise RuntimeError("the engine became ready twice")
        elif death is not None:
            self._dead = death
            raise EngineDeadError(death)

    def _wait_ready(self) -> EngineInfo:
        while True:
            death = self._child.death()
            if self._from_engine.poll(0 if death else _POLL_MS):
                message = self._decoder.decode(self._from_engine.recv())
                if isinstance(message, Ready):
                    return message.info
                if isinstance(message, Failed):
                    self._dead = message.message
                    raise error_named(message.error_type, message.message)
            elif death is not None:
                self._dead = death
                raise EngineDeadError(f"{death} while starting; its own messages are above")
