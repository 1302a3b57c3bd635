"""``LLM`` and ``AsyncEngine`` over the whole engine on the null device: right tokens, and no block left behind."""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hardpoint import LLM, AsyncEngine, EngineConfig, EngineDeadError, RequestError, SamplingParams
from hardpoint.contract.errors import StepFailedError
from hardpoint.contract.kv import KVGroup, KVPlan
from hardpoint.contract.limits import BatchLimits
from hardpoint.engine.client import EngineInfo
from hardpoint.engine.in_process import InProcessClient
from hardpoint.engine.loop import EngineLoop
from hardpoint.outputs import BatchError, RequestOutput
from hardpoint.scheduler import Scheduler
from hardpoint.scheduler.policies import FirstComeFirstServed
from hardpoint.testing.null import NullExecutor
from hardpoint.testing.null_model import NullModel
from hardpoint.text.model_text import ModelText

VOCAB, LENGTH, EOS = 24, 64, 0
MODEL = NullModel(VOCAB)
TEXT = ModelText.of(None, config={"eos_token_id": EOS})
PROMPTS = st.lists(st.lists(st.integers(1, VOCAB - 1), min_size=1, max_size=30), min_size=1, max_size=12)


def null_client(*, blocks: int = 33, depth: int = 2, **options: Any) -> InProcessClient:
    """Return the client of an engine with so few blocks that requests are preempted."""
    limits = BatchLimits(max_tokens=16, max_requests=4)
    kv = KVPlan(block_size=4, num_blocks=blocks, groups=(KVGroup(window=None, layers=(0,)),))
    scheduler = Scheduler(EngineConfig(), limits, kv, LENGTH, VOCAB, FirstComeFirstServed())
    executor = NullExecutor(
        MODEL, block_size=4, num_blocks=blocks, num_rows=limits.max_requests, max_model_len=LENGTH, **options
    )
    executor.start(kv)
    info = EngineInfo(
        model="null",
        max_model_len=LENGTH,
        vocab_size=VOCAB,
        num_blocks=blocks - 1,
        block_size=4,
        config={},
        description={},
    )
    return InProcessClient(EngineLoop(scheduler, executor, depth=depth), info)


def expected(prompt: list[int], params: SamplingParams) -> tuple[list[int], str]:
    made = MODEL.generate(prompt, params, eos=[EOS], max_model_len=LENGTH)
    return made.tokens, made.reason


def given_by(output: RequestOutput) -> tuple[list[int], str | None]:
    return output.outputs[0].token_ids, output.outputs[0].finish_reason


def assert_nothing_left(llm: LLM) -> None:
    metrics = llm.get_metrics()
    assert (metrics["running"], metrics["waiting"], metrics["blocks_used"]) == (0, 0, 0)
    assert llm.reset_prefix_cache()


@settings(max_examples=40, deadline=None)
@given(PROMPTS, st.integers(1, 2), st.integers(1, 30))
def test_generate_gives_what_each_prompt_gives_alone(prompts: list[list[int]], depth: int, max_tokens: int) -> None:
    params = SamplingParams(temperature=0.0, max_tokens=max_tokens)
    with LLM.over(null_client(depth=depth), TEXT) as llm:
        for _ in range(2):  # the second time from the prefix cache
            outputs = llm.generate(prompts, params, use_tqdm=False)
            assert [given_by(output) for output in outputs] == [expected(prompt, params) for prompt in prompts]
            assert [output.prompt_token_ids for output in outputs] == prompts
        assert_nothing_left(llm)


def test_the_second_run_comes_from_the_prefix_cache() -> None:
    prompt = list(range(1, 21))
    with LLM.over(null_client(), TEXT) as llm:
        first, second = (llm.generate(prompt, SamplingParams(max_tokens=2), use_tqdm=False)[0] for _ in range(2))
        assert (first.num_cached_tokens, second.num_cached_tokens) == (0, 16)
        llm.reset_prefix_cache()
        assert llm.generate(prompt, SamplingParams(max_tokens=2), use_tqdm=False)[0].num_cached_tokens == 0


def test_several_sequences_share_their_prompt() -> None:
    params = SamplingParams(temperature=0.0, n=4, max_tokens=12, ignore_eos=True)
    with LLM.over(null_client(), TEXT) as llm:
        (output,) = llm.generate([[3, 1, 4, 1, 5]], params, use_tqdm=False)
        one = MODEL.generate([3, 1, 4, 1, 5], params, max_model_len=LENGTH).tokens
        assert [completion.token_ids for completion in output.outputs] == [one] * 4
        assert_nothing_left(llm)


def test_a_prompt_that_fails_on_the_device_fails_alone() -> None:
    # Handles are counted from 1 in the order of the prompts.
    with LLM.over(null_client(depth=1, fail_handles={1: "logits are not numbers"}), TEXT) as llm:
        with pytest.raises(RequestError, match="logits are not numbers"):
            llm.generate([[1, 2]], SamplingParams(), use_tqdm=False)
        params = SamplingParams(temperature=0.0)
        assert given_by(llm.generate([[1, 2]], params, use_tqdm=False)[0]) == expected([1, 2], params)
        assert_nothing_left(llm)


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("at_submission", [True, False])
def test_a_step_that_fails_ends_the_requests_under_way_and_nothing_else(depth: int, at_submission: bool) -> None:
    executor: dict[str, Any] = {"fail_step": 3, "fails_at_submission": at_submission}
    with LLM.over(null_client(depth=depth, **executor), TEXT) as llm:
        prompts = [[1, 2], [3, 4, 5]]
        with pytest.raises(BatchError) as caught:
            llm.generate(prompts, SamplingParams(max_tokens=20, ignore_eos=True), use_tqdm=False)
        errors = [failure.error for failure in caught.value.failures]
        assert [type(error) for error in errors] == [StepFailedError] * 2
        assert all("step 3 fails as asked" in str(error) for error in errors)
        params = SamplingParams(temperature=0.0)
        for prompt in prompts:
            assert given_by(llm.generate([prompt], params, use_tqdm=False)[0]) == expected(prompt, params)
        assert_nothing_left(llm)


def test_a_request_that_ends_before_the_failed_step_is_not_touched_by_it() -> None:
    """With two steps in flight the third is submitted, and fails, before the second one's tokens are read."""
    with LLM.over(null_client(depth=2, fail_step=2, fails_at_submission=True), TEXT) as llm:
        params = [SamplingParams(temperature=0.0, max_tokens=n, ignore_eos=True) for n in (2, 9)]
        with pytest.raises(BatchError) as caught:
            llm.generate([[1, 2], [3, 4]], params, use_tqdm=False)
        assert [failure.index for failure in caught.value.failures] == [1]
        done = caught.value.outputs[0]
        assert done is not None
        assert given_by(done) == expected([1, 2], params[0])


def test_a_device_that_cannot_go_on_ends_the_engine_with_the_cause() -> None:
    with LLM.over(null_client(depth=1, fail_step=3, fails_for_good=True), TEXT) as llm:
        for _ in range(2):
            with pytest.raises(EngineDeadError, match=r"step 3 fails as asked; the null device is broken for good"):
                llm.generate([[1, 2]], SamplingParams(max_tokens=20, ignore_eos=True), use_tqdm=False)


def test_an_engine_whose_every_step_fails_gives_up() -> None:
    with LLM.over(null_client(depth=1, fail_step=0, fails_again=True), TEXT) as llm:
        ends = []
        for _ in range(8):
            with pytest.raises((StepFailedError, EngineDeadError)) as caught:
                llm.generate([[1, 2]], SamplingParams(max_tokens=20), use_tqdm=False)
            ends.append(type(caught.value))
        assert ends == [StepFailedError] * 7 + [EngineDeadError]
        assert "8 steps failed one after the other" in str(caught.value)


def test_idle_time_is_used_until_nothing_is_left_to_do() -> None:
    client = null_client()
    executor = client._loop._executor
    assert isinstance(executor, NullExecutor)
    for _ in range(3):
        assert client.poll(0.001) is None
    assert executor.idle_calls == 3
    with LLM.over(client, TEXT) as llm:
        llm.generate([[1, 2]], SamplingParams(max_tokens=3), use_tqdm=False)
        assert executor.idle_calls == 3
        assert client.poll(0.001) is None
        assert executor.idle_calls == 6


def test_an_interrupt_leaves_no_block_behind() -> None:
    client = null_client()
    polls = 0
    original = client.poll

    def poll(timeout: float | None = None) -> Any:
        nonlocal polls
        polls += 1
        if polls == 5:
            raise KeyboardInterrupt
        return original(timeout)

    client.poll = poll  # type: ignore[method-assign]
    params = SamplingParams(temperature=0.0, max_tokens=30, ignore_eos=True)
    with LLM.over(client, TEXT) as llm:
        with pytest.raises(KeyboardInterrupt):
            llm.generate([[n, 2, 3] for n in range(1, 9)], params, use_tqdm=False)
        assert given_by(llm.generate([[1, 2, 3]], params, use_tqdm=False)[0])[0] == (
            MODEL.generate([1, 2, 3], params, max_model_len=LENGTH).tokens
        )
        assert_nothing_left(llm)


@pytest.mark.parametrize("seed", range(3))
def test_streams_under_cancellation_give_right_tokens_and_leave_no_block(seed: int) -> None:
    rng = random.Random(seed)
    client = null_client()

    async def one(engine: AsyncEngine, number: int) -> None:
        prompt = [1 + (number + i) % (VOCAB - 1) for i in range(rng.randrange(1, 25))]
        params = SamplingParams(
            temperature=0.0, max_tokens=rng.randrange(1, 30), output_kind="delta", stream_interval=rng.randrange(1, 4)
        )
        leave_after = rng.choice([None, None, 0, 1, 5])
        found: list[int] = []
        reason = None
        await asyncio.sleep(rng.random() * 0.02)
        async with contextlib.aclosing(engine.generate(prompt, params)) as stream:
            async for count, output in _enumerate(stream):
                found += output.outputs[0].token_ids
                reason = output.outputs[0].finish_reason
                if count == leave_after:
                    break
        whole, end = expected(prompt, params)
        assert found == whole[: len(found)]
        assert leave_after is not None or (found, reason) == (whole, end)

    async def body() -> None:
        async with AsyncEngine.over(lambda: (client, TEXT)) as engine:
            await asyncio.gather(*(one(engine, number) for number in range(40)))
            # A last request brings the statistics after everything else is gone.
            async for _ in engine.generate([1], SamplingParams(max_tokens=1)):
                pass
            stats = engine.stats()
            assert (stats.running, stats.waiting, stats.blocks_used) == (0, 0, 0)
            assert await engine.reset_prefix_cache()

    asyncio.run(body())


async def _enumerate(stream: Any) -> Any:
    count = 0
    async for output in stream:
        yield count, output
        count += 1
