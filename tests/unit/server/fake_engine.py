"""An engine without a model: one token a character, and an answer that is known beforehand."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from hardpoint.config import EngineConfig
from hardpoint.contract.errors import EngineDeadError, ProfileError
from hardpoint.engine.messages import EngineInfo, SchedulerStats
from hardpoint.outputs import CompletionOutput, Logprob, RequestMetrics, RequestOutput
from hardpoint.params import SamplingParams
from hardpoint.prompts import PromptTokens

ANSWER = "Grüße aus Köln!"


@dataclass
class Call:
    """What a request asked of the engine."""

    prompt: PromptTokens
    params: SamplingParams
    options: dict[str, Any]
    aborted: bool = False
    finished: bool = False


class FakeTokenizer:
    """One token a character, but the first byte of ü is a token's bytes: half a character."""

    def decode(self, ids: list[int], *, skip_special_tokens: bool = True) -> str:
        return "".join(map(chr, ids))

    def token_bytes(self, token: int) -> bytes | None:
        return chr(token).encode()[:1]


@dataclass
class FakeEngine:
    """Says ``answer`` one character at a time to everybody.

    Attributes:
        pause: seconds before each token.
        staggered: stream each sequence's tokens in outputs of their own.
        error: raised in place of token ``fail_at`` of requests whose prompt ``fails``.
        dead: why the engine ended, if it did.
        calls: every request, in order.
    """

    answer: str = ANSWER
    pause: float = 0.0
    error: Exception | None = None
    fail_at: int = 0
    fails: Callable[[PromptTokens], bool] = lambda prompt: True
    adds_special_tokens: bool = False
    staggered: bool = False
    dead: str | None = None
    profiling: bool = False
    calls: list[Call] = field(default_factory=list)
    rendered: list[dict[str, Any]] = field(default_factory=list)
    sampling_defaults: Mapping[str, Any] = field(default_factory=dict)
    tokenizer: FakeTokenizer = field(default_factory=FakeTokenizer)
    info: EngineInfo = field(
        default_factory=lambda: EngineInfo(
            model="fake",
            max_model_len=128,
            vocab_size=70000,
            num_blocks=10,
            block_size=16,
            config=EngineConfig.of(model="fake").to_dict(),
            description={},
        )
    )

    async def start_profile(self) -> None:
        if self.profiling:
            raise ProfileError("a profile is being recorded")
        self.profiling = True

    async def stop_profile(self, path: str) -> None:
        if not self.profiling:
            raise ProfileError("no profile was started")
        self.profiling = False
        Path(path).write_text('{"traceEvents": []}')

    def stats(self) -> SchedulerStats:
        return SchedulerStats(running=2, waiting=1, blocks_total=10, blocks_used=4, generation_tokens=7)

    async def check_health(self) -> None:
        if self.dead:
            raise EngineDeadError(self.dead)

    def default_sampling_params(self) -> SamplingParams:
        return SamplingParams(**self.sampling_defaults)

    async def tokenize(self, prompt: str | list[int], *, add_special_tokens: bool = True) -> PromptTokens:
        if isinstance(prompt, list):
            return PromptTokens(token_ids=np.array(prompt, np.int32))
        start = "\x01" if add_special_tokens and self.adds_special_tokens else ""
        return PromptTokens(token_ids=np.array(list(map(ord, start + prompt)), np.int32), text=prompt)

    async def render_chat(self, messages: list[dict[str, Any]], **options: Any) -> PromptTokens:
        self.rendered.append({"messages": messages, **options})
        text = "".join(f"<{message['role']}>{message.get('content') or ''}" for message in messages)
        return PromptTokens(token_ids=np.array(list(map(ord, text)), np.int32), text=text)

    async def generate(
        self, prompt: PromptTokens, params: SamplingParams, **options: Any
    ) -> AsyncGenerator[RequestOutput, None]:
        call = Call(prompt, params, options)
        self.calls.append(call)
        await self.check_health()
        text, ids = prompt.text, prompt.token_ids.tolist()
        length = min(len(self.answer), params.max_tokens or len(self.answer))
        reason = "length" if length < len(self.answer) or length == params.max_tokens else "stop"
        delta = params.output_kind == "delta"
        start = time.monotonic()

        def output(begin: int, end: int) -> RequestOutput:
            made = [
                CompletionOutput(
                    index=index,
                    text=self.answer[begin:end],
                    token_ids=list(map(ord, self.answer[begin:end])),
                    logprobs=None if params.logprobs is None else [self._logprobs(c) for c in self.answer[begin:end]],
                    finish_reason=reason if end == length else None,
                )
                for index in range(params.n)
            ]
            prompt_logprobs = None
            if params.prompt_logprobs is not None and (not delta or begin == 0):
                prompt_logprobs = [None, *(self._logprobs(chr(i)) for i in ids[1:])]
            times = RequestMetrics(arrival_time=start, first_token_time=start + 0.01, last_token_time=time.monotonic())
            return RequestOutput(
                options["request_id"], text, ids, prompt_logprobs, made, end == length, times, num_cached_tokens=3
            )

        def split(whole: RequestOutput) -> list[RequestOutput]:
            if not self.staggered:
                return [whole]
            last = whole.outputs[-1]
            return [
                replace(
                    whole,
                    outputs=[one],
                    prompt_logprobs=whole.prompt_logprobs if one.index == 0 else None,
                    finished=whole.finished and one is last,
                )
                for one in whole.outputs
            ]

        try:
            for position in range(length):
                await asyncio.sleep(self.pause)
                if self.error is not None and position == self.fail_at and self.fails(prompt):
                    raise self.error
                if delta:
                    for part in split(output(position, position + 1)):
                        yield part
            if not delta:
                yield output(0, length)
            call.finished = True
        finally:
            call.aborted = not call.finished

    def _logprobs(self, character: str) -> dict[int, Logprob]:
        other = chr(ord(character) + 1)
        return {
            ord(character): Logprob(-0.5, 2, character),
            ord(other): Logprob(-0.25, 1, other),
            ord("?"): Logprob(float("-inf"), 3, "?"),
        }
