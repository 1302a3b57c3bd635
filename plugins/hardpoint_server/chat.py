"""``POST /v1/chat/completions``."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from hardpoint.contract.routes import Serving
from hardpoint.outputs import CompletionOutput
from hardpoint.prompts import PromptTokens
from hardpoint_server.common import Job
from hardpoint_server.errors import invalid
from hardpoint_server.logprobs import chat_logprobs, prompt_logprobs
from hardpoint_server.messages import for_template
from hardpoint_server.protocol import ChatCompletionRequest
from hardpoint_server.replies import (
    ChatChoice,
    ChatChunkChoice,
    ChatDelta,
    ChatLogprobs,
    ChatMessage,
    Envelope,
)
from hardpoint_server.sampling import sampling_params
from hardpoint_server.sse import DONE, ChunkWriter

ROLE = "assistant"
#: Template variables that are parameters of their own, or the server's; ``chat_template_kwargs`` must not set them.
_RESERVED = frozenset(
    {"messages", "tools", "documents", "chat_template", "add_generation_prompt", "continue_final_message", "tokenize"}
)


class ChatJob(Job):
    """One chat completion request with its ``n`` sequences."""

    prefix = "chatcmpl"
    object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def __init__(self, serving: Serving, request: ChatCompletionRequest) -> None:
        super().__init__(serving, request)
        self.request = request
        self.messages = for_template(request.messages)
        most = request.max_tokens if request.max_completion_tokens is None else request.max_completion_tokens
        self.params = sampling_params(
            request,
            serving.config,
            defaults=self.recommended(),
            max_tokens=most,
            logprobs=(request.top_logprobs or 0) if request.logprobs else None,
        )
        self.echoed = self._echo()

    async def _render(self) -> PromptTokens:
        request = self.request
        if request.chat_template is not None and not self.serving.config.trust_request_chat_template:
            raise invalid(
                "chat_template in a request is refused; the server would need --trust-request-chat-template",
                "chat_template",
                "unsupported_parameter",
            )
        variables = dict(request.chat_template_kwargs or {})
        if clash := sorted(_RESERVED & variables.keys()):
            raise invalid(f"chat_template_kwargs must not set {', '.join(clash)}", "chat_template_kwargs")
        if request.reasoning_effort is not None:
            variables["reasoning_effort"] = request.reasoning_effort
        final = bool(request.continue_final_message)
        prompted = not final if request.add_generation_prompt is None else request.add_generation_prompt
        if final and prompted:
            raise invalid(
                "add_generation_prompt and continue_final_message exclude each other", "continue_final_message"
            )
        return await self.serving.engine.render_chat(
            self.messages,
            # Without its tools the model cannot call one, which is what "none" promises.
            tools=None if request.tool_choice == "none" else request.tools,
            documents=request.documents,
            add_generation_prompt=prompted,
            continue_final_message=final,
            chat_template=request.chat_template,
            chat_template_kwargs=variables,
        )

    def _echo(self) -> str:
        last = self.messages[-1]
        return (last.get("content") or "") if self.request.echo and last["role"] == ROLE else ""

    async def answer(self) -> Envelope:
        """Return the whole answer."""
        stream = self.run(await self._render(), self.params)
        async with aclosing(stream) as outputs:
            async for output in outputs:
                final = output
        self.count(final, first=True)
        request = self.request
        return self.envelope(
            [self._choice(completion) for completion in final.outputs],
            usage=self.tally.usage(),
            prompt_logprobs=prompt_logprobs(final.prompt_logprobs),
            prompt_token_ids=final.prompt_token_ids if request.return_token_ids else None,
        )

    def _choice(self, completion: CompletionOutput) -> ChatChoice:
        return ChatChoice(
            index=completion.index,
            message=ChatMessage(role=ROLE, content=self.echoed + completion.text),
            logprobs=self._logprobs(completion),
            finish_reason=completion.finish_reason,
            stop_reason=completion.stop_reason,
            token_ids=completion.token_ids if self.request.return_token_ids else None,
        )

    async def events(self) -> AsyncGenerator[bytes, None]:
        """Yield the role first, then a chunk per engine output."""
        writer = ChunkWriter(self.envelope([], chunk=True))
        first = True
        stream = self.run(await self._render(), self.params)
        async with aclosing(stream) as outputs:
            async for output in outputs:
                self.count(output, first)
                running = self.tally.usage() if self.request.wants_running_usage else None
                chunks = []
                if first:
                    more = {"prompt_token_ids": output.prompt_token_ids} if self.request.return_token_ids else {}
                    opening = [self._opening(index) for index in range(self.request.choices)]
                    chunks = [writer.chunk([choice], running, **more) for choice in opening]
                    first = False
                chunks += [writer.chunk([self._delta(completion)], running) for completion in output.outputs]
                # A chunk per sequence, as OpenAI sends them, but one write.
                yield b"".join(chunks)
        if self.request.wants_usage:
            yield writer.chunk([], self.tally.usage())
        yield DONE

    def _opening(self, index: int) -> ChatChunkChoice:
        delta = ChatDelta(role=ROLE, content=self.echoed)
        return ChatChunkChoice(index=index, delta=delta, logprobs=None, finish_reason=None)

    def _delta(self, completion: CompletionOutput) -> ChatChunkChoice:
        # Text may be held back while tokens come; the chunk goes out all the same, so that clients can time them.
        return ChatChunkChoice(
            index=completion.index,
            delta=ChatDelta(content=completion.text),
            logprobs=self._logprobs(completion),
            finish_reason=completion.finish_reason,
            stop_reason=completion.stop_reason,
            token_ids=completion.token_ids if self.request.return_token_ids else None,
        )

    def _logprobs(self, completion: CompletionOutput) -> ChatLogprobs | None:
        if not self.request.logprobs or not completion.token_ids:
            return None
        return chat_logprobs(
            completion.token_ids,
            completion.logprobs or [],
            self.request.top_logprobs or 0,
            as_ids=bool(self.request.return_tokens_as_token_ids),
            bytes_of=self.bytes_of,
        )
