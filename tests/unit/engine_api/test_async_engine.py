"""``AsyncEngine`` over a scripted engine: streams, cancellation, death and restart, draining."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from hardpoint import AsyncEngine, ConfigError, EngineDeadError, RequestError, SamplingParams
from hardpoint.engine import async_engine
from hardpoint.engine.messages import EngineRequest
from hardpoint.outputs import RequestOutput
from hardpoint.text.chat_template import ChatRenderer
from hardpoint.text.model_text import ModelText
from hardpoint.text.render_messages import RenderLimits
from scripted_engine import ScriptedClient
from tiny_tokenizers import CHATML, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
TEXT = "Hello world! Größe 🙂, it's Paris."
SAID = TOKENIZER.encode(TEXT)


class Paced:
    """Lets each step of a scripted engine begin only when it is told to, or all of them."""

    def __init__(self) -> None:
        self.steps = threading.Semaphore(0)
        self.free = threading.Event()

    def __call__(self, step: int) -> None:
        while not self.free.is_set():
            if self.steps.acquire(timeout=0.01):
                return


class Factory:
    """Opens scripted engines and remembers them."""

    def __init__(self, **options: Any) -> None:
        self.options = {"max_model_len": 100_000, **options}
        self.clients: list[ScriptedClient] = []
        self.paced: Paced | None = None
        self.chat_template: str | None = None

    def __call__(self) -> tuple[ScriptedClient, ModelText]:
        client = ScriptedClient(self.say, vocab_size=500, **self.options)
        if self.paced is not None:
            client.before_step = self.paced
        self.clients.append(client)
        return client, ModelText.of(TOKENIZER, chat_template=self.chat_template)

    @staticmethod
    def say(request: EngineRequest, index: int) -> list[int]:
        return SAID

    @property
    def client(self) -> ScriptedClient:
        return self.clients[-1]


def with_engine(test: Callable[[AsyncEngine, Factory], Awaitable[None]], factory: Factory | None = None) -> None:
    """Run a test in an event loop of its own, and find nothing left of it afterwards."""
    factory = factory or Factory()

    async def body() -> None:
        engine = AsyncEngine.over(factory)
        await engine.start()
        try:
            await asyncio.wait_for(test(engine, factory), 60)
        finally:
            if factory.paced is not None:
                factory.paced.free.set()
            await engine.shutdown()

    asyncio.run(body())
    assert all(client.closed for client in factory.clients)
    for thread in threading.enumerate():
        if thread.name == "hardpoint-outputs":
            thread.join(5)
            assert not thread.is_alive()


async def collect(engine: AsyncEngine, prompt: Any = (1, 2), **params: Any) -> list[RequestOutput]:
    return [output async for output in engine.generate(prompt, SamplingParams(**params))]


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        await asyncio.sleep(0.005)


def test_deltas_join_to_the_text() -> None:
    async def test(engine: AsyncEngine, factory: Factory) -> None:
        outputs = await collect(engine, "Hello", max_tokens=len(SAID), output_kind="delta")
        assert "".join(output.outputs[0].text for output in outputs) == TEXT
        assert [token for output in outputs for token in output.outputs[0].token_ids] == SAID
        assert [output.finished for output in outputs] == [False] * (len(outputs) - 1) + [True]
        assert outputs[0].prompt == "Hello"
        assert engine.num_requests == 0

    with_engine(test)


def test_many_requests_at_once_get_their_own_outputs() -> None:
    async def test(engine: AsyncEngine, factory: Factory) -> None:
        async def one(number: int) -> None:
            kind = ("delta", "cumulative", "final_only")[number % 3]
            outputs = await collect(engine, [number + 1], max_tokens=number + 1, output_kind=kind)
            last = outputs[-1]
            assert last.prompt_token_ids == [number + 1]
            ids = [t for o in outputs for t in o.outputs[0].token_ids] if kind == "delta" else last.outputs[0].token_ids
            assert ids == (SAID * 9)[: number + 1]

        await asyncio.gather(*(one(number) for number in range(60)))

    with_engine(test)


def test_a_slow_reader_gets_merged_outputs_and_loses_nothing() -> None:
    async def test(engine: AsyncEngine, factory: Factory) -> None:
        stream = engine.generate([1], SamplingParams(max_tokens=200, output_kind="delta", n=2))
        outputs = [await anext(stream)]
        await until(lambda: factory.client.num_live == 0)
        await asyncio.sleep(0.05)
        outputs += [output async for output in stream]
        assert len(outputs) <= 3
        for index in range(2):
            ids = [t for o in outputs for c in o.outputs if c.index == index for t in c.token_ids]
            assert ids == (SAID * 20)[:200]
        assert outputs[-1].finished

    with_engine(test)


def test_one_call_into_the_event_loop_a_step() -> None:
    factory = Factory()
    factory.paced = Paced()

    async def test(engine: AsyncEngine, factory: Factory) -> None:
        assert factory.paced is not None
        tasks = [asyncio.create_task(collect(engine, [1], max_tokens=5, output_kind="delta")) for _ in range(20)]
        await until(lambda: len(factory.client.added) == 20)
        loop = asyncio.get_running_loop()
        calls = []
        original = loop.call_soon_threadsafe

        def counted(callback: Any, *args: Any, **options: Any) -> Any:
            if threading.current_thread().name == "hardpoint-outputs":
                calls.append(callback)
            return original(callback, *args, **options)

        loop.call_soon_threadsafe = counted  # type: ignore[method-assign]
        before = factory.client.steps
        factory.paced.free.set()
        await asyncio.gather(*tasks)
        assert len(calls) <= factory.client.steps - before

    with_engine(test, factory)


@pytest.mark.parametrize("how", ["aclose", "cancel", "break"])
def test_a_reader_that_leaves_aborts_its_request(how: str) -> None:
    async def test(engine: AsyncEngine, factory: Factory) -> None:
        stream = engine.generate([1], SamplingParams(max_tokens=90_000, n=2, output_kind="delta"))
        if how == "cancel":
            task = asyncio.create_task(_drain(stream))
            await until(lambda: factory.client.steps > 3)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        else:
            async for _ in stream:
                break
            if how == "aclose":
                await stream.aclose()
            else:
                del stream
        await until(lambda: factory.client.num_live == 0)
        assert sorted(factory.client.aborted) == sorted(factory.client.added[0].handles)
        assert engine.num_requests == 0
        assert (await collect(engine, max_tokens=2))[-1].outputs[0].token_ids == SAID[:2]

    with_engine(test)


async def _drain(stream: Any) -> None:
    async for _ in stream:
        pass


def test_abort_gives_the_reader_what_there_is() -> None:
    async def test(engine: AsyncEngine, factory: Factory) -> None:
        params = SamplingParams(max_tokens=90_000)
        task = asyncio.create_task(_last(engine.generate([1], params, "mine")))
        await until(lambda: factory.client.steps > 3)
        await engine.abort(["mine", "unknown"])
        last = await task
        assert last.outputs[0].finish_reason == "abort"
        assert len(last.outputs[0].token_ids) > 2

    with_engine(test)


async def _last(stream: Any) -> RequestOutput:
    last = None
    async for output in stream:
        last = output
    assert last is not None
    return last


def test_bad_requests_fail_alone() -> None:
    async def test(engine: AsyncEngine, factory: Factory) -> None:
        factory.client.refuse["refused"] = "QueueFullError"
        running = asyncio.create_task(collect(engine, max_tokens=500))
        with pytest.raises(RequestError, match="outside the vocabulary"):
            await collect(engine, [10**6])
        with pytest.raises(RequestError, match="prompt is empty"):
            await collect(engine, "")
        with pytest.raises(Exception, match="no place"):
            await _last(engine.generate([1], SamplingParams(), "refused"))
        stream = engine.generate([1], SamplingParams(max_tokens=90_000), "twice")
        await anext(stream)
        with pytest.raises(RequestError, match="still running"):
            await anext(engine.generate([1], SamplingParams(), "twice"))
        await stream.aclose()
        assert len((await running)[-1].outputs[0].token_ids) == 500
        assert engine.is_alive

    with_engine(test)


def test_stop_strings_reach_the_engine_as_aborts() -> None:
    async def test(engine: AsyncEngine, factory: Factory) -> None:
        outputs = await collect(engine, stop="world", max_tokens=90_000, output_kind="delta")
        assert "".join(output.outputs[0].text for output in outputs) == "Hello "
        await until(lambda: factory.client.num_live == 0)

    with_engine(test)


def test_everyone_hears_of_the_engines_death_and_it_can_be_started_again() -> None:
    async def test(engine: AsyncEngine, factory: Factory) -> None:
        tasks = [asyncio.create_task(collect(engine, max_tokens=90_000)) for _ in range(5)]
        await until(lambda: factory.client.steps > 3)
        await engine.check_health()
        began = time.monotonic()
        factory.client.kill("killed by SIGSEGV")
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert time.monotonic() - began < 5
        assert all(isinstance(error, EngineDeadError) and "SIGSEGV" in str(error) for error in found)
        assert len({id(error) for error in found}) == 5
        assert engine.errored
        assert not engine.is_alive
        assert "SIGSEGV" in str(engine.dead_error)
        for attempt in (collect(engine), engine.check_health(), engine.tokenize("x"), engine.abort("x")):
            with pytest.raises(EngineDeadError, match="SIGSEGV"):
                await attempt
        await asyncio.gather(engine.restart(), return_exceptions=False)
        assert engine.is_alive
        assert not engine.errored
        assert (await collect(engine, max_tokens=2))[-1].outputs[0].token_ids == SAID[:2]
        assert len(factory.clients) == 2

    with_engine(test)


def test_outputs_that_cannot_be_read_end_the_engine_with_the_cause(caplog: pytest.LogCaptureFixture) -> None:
    async def test(engine: AsyncEngine, factory: Factory) -> None:
        def broken(step: int) -> None:
            raise ZeroDivisionError("counts do not add up")

        factory.client.before_step = broken
        with pytest.raises(EngineDeadError, match="ZeroDivisionError: counts do not add up"):
            await collect(engine, max_tokens=5)

    with_engine(test)


def test_a_drain_lets_running_requests_finish_and_refuses_new_ones() -> None:
    factory = Factory()
    factory.paced = Paced()

    async def test(engine: AsyncEngine, factory: Factory) -> None:
        assert factory.paced is not None
        running = asyncio.create_task(collect(engine, max_tokens=50))
        await until(lambda: len(factory.client.added) == 1)
        ending = asyncio.create_task(engine.shutdown(drain_s=30))
        await until(lambda: not engine.is_alive)
        with pytest.raises(EngineDeadError, match="shutting down"):
            await collect(engine)
        factory.paced.free.set()
        assert len((await running)[-1].outputs[0].token_ids) == 50
        await ending
        with pytest.raises(EngineDeadError, match="not been started, or was shut down"):
            await collect(engine)

    with_engine(test, factory)


def test_a_drain_that_takes_too_long_aborts() -> None:
    async def test(engine: AsyncEngine, factory: Factory) -> None:
        running = asyncio.create_task(collect(engine, max_tokens=90_000))
        await until(lambda: factory.client.steps > 3)
        await engine.shutdown(drain_s=0.1)
        assert (await running)[-1].outputs[0].finish_reason == "abort"

    with_engine(test)


def test_shutdown_of_a_stuck_engine_gives_an_error_to_its_callers() -> None:
    factory = Factory()
    factory.paced = Paced()

    async def test(engine: AsyncEngine, factory: Factory) -> None:
        running = asyncio.create_task(collect(engine, max_tokens=5))
        await until(lambda: len(factory.client.added) == 1)
        await engine.shutdown()
        with pytest.raises(EngineDeadError, match="shut down"):
            await running
        assert factory.paced is not None
        factory.paced.free.set()

    with_engine(test, factory)


def test_chats_are_rendered_off_the_event_loop() -> None:
    factory = Factory()
    factory.chat_template = CHATML

    async def test(engine: AsyncEngine, factory: Factory) -> None:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0.001)

        ticking = asyncio.create_task(tick())
        tokens = await engine.render_chat([{"role": "user", "content": "Hi"}])
        assert tokens.text == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
        slow = "{% for a in range(3000) %}{% for b in range(300) %}{% endfor %}{% endfor %}done"
        before = ticks
        assert (await engine.render_chat([{"role": "user", "content": "Hi"}], chat_template=slow)).text == "done"
        assert ticks > before + 3
        ticking.cancel()
        outputs = [output async for output in engine.generate(tokens, SamplingParams(max_tokens=1))]
        assert outputs[-1].prompt == tokens.text

    with_engine(test, factory)


def test_hostile_templates_of_requests_hold_up_nobody_else() -> None:
    factory = Factory()
    limits = RenderLimits(seconds=2.0, workers=1)
    text = ModelText(tokenizer=TOKENIZER, chat=ChatRenderer({"default": CHATML}, {}, limits))

    async def body() -> None:
        conversation = [{"role": "user", "content": "Hi"}]
        endless = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
        async with AsyncEngine.over(lambda: (factory()[0], text)) as engine:
            attacks = [asyncio.create_task(engine.render_chat(conversation, chat_template=endless)) for _ in range(8)]
            await asyncio.sleep(0.1)
            for _ in range(5):
                await engine.render_chat(conversation)
                await engine.tokenize("Hello")
                await collect(engine, "Hello", max_tokens=3)
            assert not any(attack.done() for attack in attacks)
            (first,) = await asyncio.gather(attacks[0], return_exceptions=True)
            assert isinstance(first, RequestError)
            assert "longer than 2 seconds" in str(first)
        ended = await asyncio.gather(*attacks, return_exceptions=True)
        assert all(isinstance(error, (RequestError, EngineDeadError)) for error in ended)

    asyncio.run(body())


def test_a_broken_chat_template_stops_the_start_and_leaves_nothing_running() -> None:
    factory = Factory()
    factory.chat_template = "{% if %}"

    async def body() -> None:
        engine = AsyncEngine.over(factory)
        with pytest.raises(ConfigError, match="not valid Jinja"):
            await engine.start()
        assert not engine.is_alive

    asyncio.run(body())
    assert factory.client.closed


def test_an_engine_that_was_not_started_says_so() -> None:
    async def body() -> None:
        engine = AsyncEngine.over(Factory())
        with pytest.raises(EngineDeadError, match="not been started"):
            await engine.check_health()
        assert not engine.is_alive
        await engine.shutdown()

    asyncio.run(body())


def test_facts_about_the_engine() -> None:
    async def test(engine: AsyncEngine, factory: Factory) -> None:
        assert engine.info.model == "scripted"
        assert engine.tokenizer is TOKENIZER
        await collect(engine, max_tokens=3)
        assert engine.stats().steps == 3
        assert await engine.reset_prefix_cache()
        assert engine.default_sampling_params() == SamplingParams()
        assert (await engine.tokenize("Hello")).token_ids.tolist() == TOKENIZER.encode("Hello")

    with_engine(test)


def test_settings_are_checked_when_it_is_made() -> None:
    with pytest.raises(ConfigError, match="did you mean"):
        AsyncEngine.of(modl="x")
    assert async_engine.AsyncEngine is AsyncEngine
