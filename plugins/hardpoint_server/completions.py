"""``POST /v1/completions``."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from hardpoint.contract.routes import Serving
from hardpoint.outputs import CompletionOutput, PromptLogprobs, RequestOutput
from hardpoint_server.common import Job
from hardpoint_server.errors import invalid
from hardpoint_server.logprobs import completion_logprobs, prompt_logprobs
from hardpoint_server.protocol import CompletionRequest
from hardpoint_server.replies import CompletionLogprobs, Envelope, TextChoice
from hardpoint_server.sampling import sampling_params
from hardpoint_server.sse import DONE, ChunkWriter
from hardpoint_server.streams import merge

#: OpenAI's default for completions.
DEFAULT_MAX_TOKENS = 16


class CompletionJob(Job):
    """One completion request: its prompts, each with ``n`` sequences."""

    prefix = "cmpl"
    object = "text_completion"
    chunk_object = "text_completion"

    def __init__(self, serving: Serving, request: CompletionRequest) -> None:
        super().__init__(serving, request)
        self.request = request
        self.prompts = as_prompts(request)
        # max_tokens=0 with echo scores a prompt; the engine generates one token, which is dropped.
        self.score_only = bool(request.echo and request.max_tokens == 0)
        wanted = 1 if self.score_only else request.max_tokens
        self.params = sampling_params(
            request,
            serving.config,
            defaults={"max_tokens": DEFAULT_MAX_TOKENS, **self.recommended()},
            max_tokens=wanted,
            logprobs=request.logprobs,
            prompts=len(self.prompts),
        )
        if request.echo and request.logprobs is not None and self.params.prompt_logprobs is None:
            self.params = self.params.replace(prompt_logprobs=request.logprobs)
        self._offsets: dict[int, int] = {}
        # A stream carries a prompt's log-probabilities once, but each of its n sequences echoes them.
        self._prompt_logprobs: dict[int, PromptLogprobs] = {}

    async def _streams(self) -> list[AsyncGenerator[RequestOutput, None]]:
        # All prompts are checked before the first one runs.
        special = self.request.add_special_tokens
        tokenize = self.serving.engine.tokenize
        tokens = [await tokenize(prompt, add_special_tokens=special is not False) for prompt in self.prompts]
        return [self.run(prompt, self.params, part) for part, prompt in enumerate(tokens)]

    async def answer(self) -> Envelope:
        """Return the whole answer."""
        choices: list[TextChoice] = []
        async with aclosing(merge(await self._streams())) as outputs:
            async for part, output in outputs:
                self._see(part, output, first=True)
                choices += [self._choice(part, output, completion, opening=True) for completion in output.outputs]
        choices.sort(key=lambda choice: choice.index)
        return self.envelope(choices, usage=self.tally.usage())

    async def events(self) -> AsyncGenerator[bytes, None]:
        """Yield a chunk per engine output."""
        writer = ChunkWriter(self.envelope([], chunk=True))
        opened: set[int] = set()
        seen: set[int] = set()
        async with aclosing(merge(await self._streams())) as outputs:
            async for part, output in outputs:
                self._see(part, output, first=part not in seen)
                seen.add(part)
                choices = []
                for completion in output.outputs:
                    index = part * self.request.choices + completion.index
                    choice = self._choice(part, output, completion, opening=index not in opened)
                    opened.add(index)
                    choices.append(choice)
                running = self.tally.usage() if self.request.wants_running_usage else None
                # A chunk per sequence, as OpenAI sends them, but one write. Text may be held back while tokens come; the
                # chunk goes out all the same, so that clients can time them.
                yield b"".join(writer.chunk([choice], running) for choice in choices)
        if self.request.wants_usage:
            yield writer.chunk([], self.tally.usage())
        yield DONE

    def _see(self, part: int, output: RequestOutput, first: bool) -> None:
        if output.prompt_logprobs is not None:
            self._prompt_logprobs[part] = output.prompt_logprobs
        before = self.tally.completion
        self.count(output, first)
        if self.score_only:
            self.tally.completion = before

    def _choice(self, part: int, output: RequestOutput, completion: CompletionOutput, opening: bool) -> TextChoice:
        request = self.request
        index = part * request.choices + completion.index
        text = "" if self.score_only else completion.text
        if request.echo and opening:
            text = self._prompt_text(output) + text
        return TextChoice(
            index=index,
            text=text,
            logprobs=self._logprobs(part, output, completion, opening),
            finish_reason=completion.finish_reason,
            stop_reason=completion.stop_reason,
            prompt_logprobs=prompt_logprobs(output.prompt_logprobs) if opening and self._reports_prompt else None,
            prompt_token_ids=output.prompt_token_ids if request.return_token_ids and opening else None,
            token_ids=completion.token_ids if request.return_token_ids else None,
        )

    @property
    def _reports_prompt(self) -> bool:
        return self.request.prompt_logprobs is not None

    def _prompt_text(self, output: RequestOutput) -> str:
        if output.prompt is not None:
            return output.prompt
        return self.decode(output.prompt_token_ids)

    def _logprobs(
        self, part: int, output: RequestOutput, completion: CompletionOutput, opening: bool
    ) -> CompletionLogprobs | None:
        top = self.request.logprobs
        if top is None:
            return None
        index = part * self.request.choices + completion.index
        ids: list[int] = [] if self.score_only else list(completion.token_ids)
        positions: list[Any] = [] if self.score_only else list(completion.logprobs or [])
        if self.request.echo and opening:
            ids = [*output.prompt_token_ids, *ids]
            positions = [*self._prompt_logprobs[part], *positions]
        if not ids:
            return None
        made = completion_logprobs(
            ids,
            positions,
            top,
            offset=self._offsets.get(index, 0),
            as_ids=bool(self.request.return_tokens_as_token_ids),
            decode=self.decode,
        )
        self._offsets[index] = made.text_offset[-1] + len(made.tokens[-1])
        return made


def as_prompts(request: CompletionRequest) -> list[Any]:
    """Return the prompts as the engine takes them.

    Raises:
        ApiError: for a prompt that is missing, empty or of mixed types.
    """
    given = request.prompt
    if given is None:
        raise invalid("prompt is missing", "prompt", "missing_required_parameter")
    if isinstance(given, str):
        prompts: list[Any] = [given]
    elif not given:
        raise invalid("prompt is an empty list", "prompt")
    elif all(isinstance(item, int) for item in given):
        prompts = [given]
    elif len({type(item) for item in given}) == 1:
        prompts = list(given)
    else:
        raise invalid("prompt mixes text and token ids; send all prompts in one of the two forms", "prompt")
    return prompts
