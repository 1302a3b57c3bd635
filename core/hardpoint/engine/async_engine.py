"""``AsyncEngine``: one engine, any number of coroutines.

One background thread polls the engine, makes text, and hands the outputs of a step to the event loop in one call.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any

from hardpoint.config import EngineConfig
from hardpoint.contract.errors import EngineDeadError
from hardpoint.engine.client import EngineClient, EngineInfo
from hardpoint.engine.frontend import open_engine
from hardpoint.engine.messages import SchedulerStats
from hardpoint.engine.session import POLL_SECONDS, Session, again, off_loop
from hardpoint.engine.streams import Stream
from hardpoint.foreign_settings import without_foreign
from hardpoint.outputs import RequestOutput
from hardpoint.params import SamplingParams
from hardpoint.prompts import Prompt, PromptTokens
from hardpoint.text.model_text import ModelText
from hardpoint.text.tokenizer import Tokenizer

Opener = Callable[[], tuple[EngineClient, ModelText]]


class AsyncEngine:
    """An engine for servers: streams of outputs, aborts, health, draining.

    Example:
        >>> async with AsyncEngine.of(model="hardpoint/demo") as engine:
        ...     async for output in engine.generate("Hello", SamplingParams(max_tokens=8)):
        ...         print(output.outputs[0].text)

    Methods are called from coroutines of any event loop. After the engine died, :meth:`restart` makes it usable again.
    """

    def __init__(self, config: EngineConfig, *, in_process: bool = False) -> None:
        """Prepare to run ``config``, in a process of its own or in this one; :meth:`start` loads it."""
        self._prepare(functools.partial(open_engine, config, in_process=in_process))

    @classmethod
    def of(cls, *, in_process: bool = False, **settings: Any) -> AsyncEngine:
        """Make one from flat settings, as ``LLM`` takes them.

        Raises:
            ConfigError: for a setting that does not exist or has a wrong value.
        """
        return cls(EngineConfig.of(**without_foreign(settings)), in_process=in_process)

    @classmethod
    def over(cls, opener: Opener) -> AsyncEngine:
        """Make one whose engine and text side come from ``opener``, called at every (re)start."""
        engine = cls.__new__(cls)
        engine._prepare(opener)
        return engine

    def _prepare(self, opener: Opener) -> None:
        self._open = opener
        self._names = itertools.count()
        self._session: Session | None = None
        self._text: ModelText | None = None
        self._draining = False
        self._starting = asyncio.Lock()

    async def start(self) -> None:
        """Load the model and begin to take requests.

        Raises:
            ConfigError, PluginError, CheckpointError, MemoryBudgetError: what is wrong and the way out.
        """
        async with self._starting:
            if self._session is None:
                await self._start()

    async def _start(self) -> None:
        client, text = await asyncio.to_thread(self._open)
        try:
            if text.chat is not None:
                await asyncio.to_thread(text.chat.check)
        except BaseException:
            await asyncio.to_thread(client.close)
            await asyncio.to_thread(text.close)
            raise
        self._text = text
        self._session = Session(client, text)
        self._draining = False
        self._session.thread.start()

    async def restart(self) -> None:
        """End the engine if it still runs, and start it again; what was running gets an ``EngineDeadError``.

        Raises:
            ConfigError, PluginError, CheckpointError, MemoryBudgetError: as :meth:`start`.
        """
        async with self._starting:
            await self._end()
            await self._start()

    async def shutdown(self, drain_s: float = 0.0) -> None:
        """Take no more requests, let the running ones finish for ``drain_s`` seconds, abort the rest and end the engine."""
        self._draining = True
        deadline = time.monotonic() + drain_s
        session = self._session
        while session is not None and session.dead is None and session.streams and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        if session is not None and session.dead is None and session.streams:
            with contextlib.suppress(EngineDeadError):
                await self.abort(list(session.streams))
            # Callers get what was generated with the reason "abort", not an error, if the engine is quick enough.
            grace = time.monotonic() + 4 * POLL_SECONDS
            while session.dead is None and session.streams and time.monotonic() < grace:
                await asyncio.sleep(0.02)
        async with self._starting:
            await self._end()

    async def _end(self) -> None:
        session, self._session = self._session, None
        text, self._text = self._text, None
        if session is not None:
            await asyncio.to_thread(session.close)
        if text is not None:
            await asyncio.to_thread(text.close)

    async def __aenter__(self) -> AsyncEngine:
        await self.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.shutdown()

    async def generate(
        self,
        prompt: Prompt | PromptTokens,
        sampling_params: SamplingParams | None = None,
        request_id: str | None = None,
        *,
        priority: int = 0,
        tenant: str = "",
        adapter: str | None = None,
        cache_salt: str | None = None,
    ) -> AsyncGenerator[RequestOutput, None]:
        """Run one request and yield its outputs until the last one, whose ``finished`` is true.

        What an output holds is ``sampling_params.output_kind``'s choice. A reader that falls behind gets several outputs
        merged into one. Closing or cancelling the generator aborts the request.

        Args:
            prompt: anything that ``LLM.generate`` takes, or what :meth:`tokenize` or :meth:`render_chat` returned.
            sampling_params: the model's recommendation by default.
            request_id: a name for logs and :meth:`abort`; made up by default.
            priority: smaller runs earlier under the priority policy.
            tenant: for fair policies.
            adapter: name of an adapter.
            cache_salt: share cached prefixes only with requests of the same salt.

        Raises:
            RequestError: when the request cannot be served.
            QueueFullError: when too many requests wait.
            EngineDeadError: when the engine ended, with the cause.
        """
        session = self._live()
        tokens = prompt if isinstance(prompt, PromptTokens) else await self.tokenize(prompt)
        params = self.default_sampling_params() if sampling_params is None else sampling_params
        prepared = session.inputs.prepare(
            tokens,
            params,
            request_id=request_id or f"request-{next(self._names)}",
            priority=priority,
            tenant=tenant,
            adapter=adapter,
            cache_salt=cache_salt,
        )
        name = prepared.request.request_id
        stream = Stream(name, delta=params.output_kind == "delta")
        with session.lock:
            if session.dead is not None:
                raise again(session.dead)
            session.outputs.add(prepared)
            session.streams[name] = stream
        finished = False
        try:
            session.client.add(prepared.request)
            while not finished:
                output = await stream.next()
                finished = output.finished
                yield output
        finally:
            self._leave(session, name)

    def _leave(self, session: Session, name: str) -> None:
        """Forget a request; if it still runs, its reader has gone and the engine must end it."""
        with session.lock:
            session.streams.pop(name, None)
            handles = session.outputs.forget([name])
        if handles:
            with contextlib.suppress(EngineDeadError):
                session.client.abort(handles)

    async def abort(self, request_id: str | Sequence[str]) -> None:
        """End requests; their readers get a last output with the finish reason ``"abort"``. Unknown ids are ignored.

        Raises:
            EngineDeadError: when the engine ended.
        """
        session = self._alive()
        names = [request_id] if isinstance(request_id, str) else request_id
        with session.lock:
            handles = [handle for name in names for handle in session.outputs.handles(name)]
        if handles:
            session.client.abort(handles)

    async def tokenize(self, prompt: Prompt, *, add_special_tokens: bool = True) -> PromptTokens:
        """Tokenize and check a prompt, off the event loop.

        Raises:
            RequestError: for a prompt that cannot be served.
        """
        session = self._alive()
        return await off_loop(
            session.tokenizing, session.inputs.tokenize, prompt, add_special_tokens=add_special_tokens
        )

    async def render_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        chat_template: str | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> PromptTokens:
        """Render a conversation with the chat template and tokenize it, off the event loop.

        Returns:
            The prompt for :meth:`generate`, with ``text`` and ``token_ids``.

        Raises:
            RequestError: when the conversation does not suit the template, or a limit is reached.
        """
        session = self._alive()
        chat = self._model_text().chat
        own = chat is None or chat.is_own(chat_template)
        return await off_loop(
            session.rendering if own else session.rendering_foreign,
            session.inputs.render,
            messages,
            tools=tools,
            documents=documents,
            chat_template=chat_template,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            chat_template_kwargs=chat_template_kwargs,
        )

    async def reset_prefix_cache(self) -> bool:
        """Forget cached prefixes; return whether all of them could be forgotten."""
        return await asyncio.to_thread(self._alive().client.reset_prefix_cache)

    async def start_profile(self) -> None:
        """Begin to record what the engine's loop, the host's threads and the device do.

        Raises:
            ProfileError: when it cannot be recorded.
        """
        await asyncio.to_thread(self._alive().client.start_profile)

    async def stop_profile(self, path: str) -> None:
        """End it and write a Chrome trace to ``path``; ranks after the first beside it.

        Raises:
            ProfileError: when no profile was started, or the file cannot be written.
        """
        await asyncio.to_thread(self._alive().client.stop_profile, path)

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The model's tokenizer; ``None`` with ``skip_tokenizer_init``."""
        return self._model_text().tokenizer

    @property
    def info(self) -> EngineInfo:
        """What is known about the engine: limits, the configuration after adjustments, what was chosen."""
        if self._session is None:
            raise EngineDeadError("the engine has not been started, or was shut down")
        return self._session.client.info

    @property
    def is_alive(self) -> bool:
        """Whether requests are taken."""
        return self._session is not None and self._session.dead is None and not self._draining

    @property
    def errored(self) -> bool:
        """Whether the engine died."""
        return self.dead_error is not None

    @property
    def dead_error(self) -> EngineDeadError | None:
        """Why the engine died, if it did."""
        return None if self._session is None else self._session.dead

    @property
    def num_requests(self) -> int:
        """Requests whose readers wait."""
        return 0 if self._session is None else len(self._session.streams)

    async def check_health(self) -> None:
        """Do nothing while the engine is well.

        Raises:
            EngineDeadError: when it died, with the cause, or was never started.
        """
        self._alive()

    def stats(self) -> SchedulerStats:
        """Return the engine's gauges and counters as of the last step."""
        return SchedulerStats() if self._session is None else self._session.stats

    def default_sampling_params(self) -> SamplingParams:
        """Return what the model's generation_config.json recommends."""
        return SamplingParams(**self._model_text().sampling_defaults)

    def _model_text(self) -> ModelText:
        if self._text is None:
            raise EngineDeadError("the engine has not been started, or was shut down")
        return self._text

    def _alive(self) -> Session:
        if self._session is None:
            raise EngineDeadError("the engine has not been started, or was shut down")
        if self._session.dead is not None:
            raise again(self._session.dead)
        return self._session

    def _live(self) -> Session:
        session = self._alive()
        if self._draining:
            raise EngineDeadError("the engine is shutting down and takes no more requests")
        return session
