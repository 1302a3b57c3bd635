"""An engine without a model: it says what a script tells it to, a few tokens a step."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from hardpoint.contract.errors import EngineDeadError
from hardpoint.engine.client import EngineInfo
from hardpoint.engine.messages import EngineOutputs, EngineRequest, Finish, Logprobs, SchedulerStats

#: (request, number of the sequence) -> the tokens that it would generate for ever, repeated from the start when used up.
Script = Callable[[EngineRequest, int], Sequence[int]]


@dataclass(slots=True)
class _Live:
    handle: int
    request: EngineRequest
    script: Sequence[int]
    done: int = 0


@dataclass
class ScriptedClient:
    """An ``EngineClient`` whose steps give ``per_step`` tokens to each of at most ``width`` sequences.

    Attributes:
        script: what is said.
        added, aborted: what the client was told.
        before_step: called at the start of each step with its number; may raise, block or abort.
        refuse: handles' requests whose id is here end with this error type.
    """

    script: Script
    vocab_size: int = 1000
    max_model_len: int = 64
    per_step: int = 1
    width: int = 256
    before_step: Callable[[int], None] = lambda step: None
    refuse: dict[str, str] = field(default_factory=dict)
    closed: bool = False

    def __post_init__(self) -> None:
        self.info = EngineInfo(
            model="scripted",
            max_model_len=self.max_model_len,
            vocab_size=self.vocab_size,
            num_blocks=1000,
            block_size=16,
            config={},
            description={},
        )
        self.added: list[EngineRequest] = []
        self.aborted: list[int] = []
        self.steps = 0
        self._live: dict[int, _Live] = {}
        self._finished: list[Finish] = []
        self._news = threading.Condition()
        self._dead: str | None = None

    def add(self, request: EngineRequest) -> None:
        with self._news:
            self._check()
            self.added.append(request)
            if request.request_id in self.refuse:
                kind = self.refuse[request.request_id]
                self._finished += [Finish(h, "error", error="no place", error_type=kind) for h in request.handles]
            else:
                for index, handle in enumerate(request.handles):
                    self._live[handle] = _Live(handle, request, self.script(request, index))
            self._news.notify()

    def abort(self, handles: Sequence[int]) -> None:
        with self._news:
            self._check()
            self.aborted += handles
            self._finished += [Finish(handle, "abort") for handle in handles if self._live.pop(handle, None)]
            self._news.notify()

    def poll(self, timeout: float | None = None) -> EngineOutputs | None:
        with self._news:
            self._check()
            if not self._live and not self._finished:
                self._news.wait(timeout)
                self._check()
            if not self._live and not self._finished:
                return None
        self.before_step(self.steps)
        with self._news:
            self._check()
            self.steps += 1
            return self._step()

    def _step(self) -> EngineOutputs:
        finished, self._finished = self._finished, []
        handles, counts, tokens, logprobs, prompts, cached = [], [], [], [], [], []
        for live in list(self._live.values())[: self.width]:
            if live.done == 0:
                cached.append((live.handle, 0))
                if live.request.params.prompt_logprobs is not None:
                    ids = live.request.token_ids[1:].tolist()
                    prompts.append(_logprobs(live.handle, ids, live.request.params.prompt_logprobs))
            new, finish = self._say(live)
            handles.append(live.handle)
            counts.append(len(new))
            tokens += new
            if live.request.params.logprobs is not None:
                logprobs.append(_logprobs(live.handle, new, live.request.params.logprobs))
            if finish is not None:
                del self._live[live.handle]
                finished.append(finish)
        return EngineOutputs(
            handles=np.array(handles, np.int64),
            counts=np.array(counts, np.int32),
            tokens=np.array(tokens, np.int32),
            finished=finished,
            logprobs=logprobs,
            prompt_logprobs=prompts,
            cached=cached,
            stats=SchedulerStats(running=len(self._live), steps=self.steps),
        )

    def _say(self, live: _Live) -> tuple[list[int], Finish | None]:
        new: list[int] = []
        params, eos = live.request.params, live.request.eos_token_ids
        for _ in range(self.per_step):
            token = int(live.script[live.done % len(live.script)])
            new.append(token)
            live.done += 1
            if live.done >= params.min_tokens and token in eos:
                return new, Finish(live.handle, "stop")
            if live.done >= params.min_tokens and token in (params.stop_token_ids or ()):
                return new, Finish(live.handle, "stop", stop=token)
            if live.done == params.max_tokens:
                return new, Finish(live.handle, "length")
        return new, None

    def reset_prefix_cache(self) -> bool:
        return not self._live

    def close(self) -> None:
        with self._news:
            self.closed = True
            self._dead = self._dead or "it was closed"
            self._news.notify_all()

    def kill(self, cause: str) -> None:
        """End the engine as a crash would."""
        with self._news:
            self._dead = cause
            self._news.notify_all()

    @property
    def num_live(self) -> int:
        """Sequences that have not ended."""
        return len(self._live)

    def _check(self) -> None:
        if self._dead is not None:
            raise EngineDeadError(self._dead)


def _logprobs(handle: int, tokens: list[int], k: int) -> Logprobs:
    """The token itself is second after token 7, which is always most likely."""
    ids = [[token, *range(7, 7 + k)] for token in tokens]
    values = [[-0.5, *(-0.25 * (1 + place) for place in range(k))] for _ in tokens]
    return Logprobs(
        handle,
        np.array(ids, np.int32).reshape(len(tokens), 1 + k),
        np.array(values, np.float32).reshape(len(tokens), 1 + k),
        np.array([1 if token == 7 else 2 for token in tokens], np.int32),
    )
