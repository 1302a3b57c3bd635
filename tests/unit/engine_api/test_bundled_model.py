"""``LLM`` and ``AsyncEngine`` with the real engine and the bundled model."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

from hardpoint import LLM, AsyncEngine, BeamSearchParams, EngineDeadError, RequestError, SamplingParams
from hardpoint.text.detokenizer import PieceDetokenizer
from hardpoint.text.tokenizer import Tokenizer

SETTINGS: dict[str, Any] = {"kv_cache_memory": "16M", "threads": 1, "dtype": "float32", "max_model_len": 512}
GREEDY = SamplingParams(temperature=0.0, max_tokens=24)
QUESTIONS = [
    [{"role": "user", "content": "What is the capital of France?"}],
    [{"role": "user", "content": [{"type": "text", "text": "What is 12 + 30?"}]}],
]


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM("hardpoint/demo", **SETTINGS) as llm:
        yield llm


def test_it_answers(llm: LLM) -> None:
    answers = [output.outputs[0].text for output in llm.chat(QUESTIONS, GREEDY, use_tqdm=False)]
    assert "Paris" in answers[0]
    assert "42" in answers[1]


def test_prompts_are_what_transformers_renders(llm: LLM) -> None:
    tokenizer = llm.get_tokenizer()
    conversation = [{"role": "system", "content": "Be brief."}, *QUESTIONS[0]]
    (output,) = llm.chat(conversation, SamplingParams(max_tokens=1), use_tqdm=False)
    assert output.prompt == tokenizer.apply_chat_template(conversation, add_generation_prompt=True, tokenize=False)
    assert (
        output.prompt_token_ids == tokenizer.apply_chat_template(conversation, add_generation_prompt=True)["input_ids"]
    )


def test_its_tokens_have_fixed_bytes(llm: LLM) -> None:
    tokenizer = Tokenizer(llm.get_tokenizer())
    assert isinstance(tokenizer.detokenizer([]), PieceDetokenizer)
    assert len(tokenizer) <= llm.info.vocab_size


def test_streams_and_beams_agree_with_generate(llm: LLM) -> None:
    ids = llm.chat(QUESTIONS[0], GREEDY, use_tqdm=False)[0]
    prompt = {"prompt_token_ids": ids.prompt_token_ids}
    (beam,) = llm.beam_search([prompt], BeamSearchParams(beam_width=1, max_tokens=24))[0].sequences
    assert beam.tokens[len(ids.prompt_token_ids) :] == ids.outputs[0].token_ids
    assert beam.finish_reason == "stop"

    async def stream() -> str:
        async with AsyncEngine.of(in_process=True, **SETTINGS) as engine:
            prompt = await engine.render_chat(QUESTIONS[0])
            params = GREEDY.replace(output_kind="delta")
            return "".join([output.outputs[0].text async for output in engine.generate(prompt, params)])

    assert asyncio.run(stream()) == ids.outputs[0].text


def test_logprobs_are_those_of_the_prompt_extended(llm: LLM) -> None:
    params = GREEDY.replace(logprobs=0)
    output = llm.chat(QUESTIONS[0], params, use_tqdm=False)[0]
    said = output.outputs[0]
    whole = output.prompt_token_ids + said.token_ids[:-1]
    (scored,) = llm.generate([whole], SamplingParams(max_tokens=1, prompt_logprobs=0), use_tqdm=False)
    assert scored.prompt_logprobs is not None
    tail = scored.prompt_logprobs[len(output.prompt_token_ids) :]
    for token, one, other in zip(said.token_ids, said.logprobs or [], tail, strict=False):
        assert other is not None
        assert one[token].logprob == pytest.approx(other[token].logprob, abs=1e-3)


def test_bad_requests_leave_it_well(llm: LLM) -> None:
    for prompt, reason in (([10**6], "outside the vocabulary"), ([1] * 512, "512 tokens"), ("", "prompt is empty")):
        with pytest.raises(RequestError, match=reason):
            llm.generate(prompt, GREEDY, use_tqdm=False)
    assert "Paris" in llm.chat(QUESTIONS[0], GREEDY, use_tqdm=False)[0].outputs[0].text


@pytest.mark.slow
def test_an_engine_process_that_is_killed_can_be_started_again() -> None:
    async def body() -> None:
        async with AsyncEngine.of(**SETTINGS) as engine:
            prompt = await engine.render_chat(QUESTIONS[0])

            async def answer(params: SamplingParams) -> str:
                text = ""
                async for output in engine.generate(prompt, params):
                    text = output.outputs[0].text
                return text

            assert "Paris" in await answer(GREEDY)
            endless = SamplingParams(max_tokens=400, ignore_eos=True)
            waiting = [asyncio.create_task(answer(endless)) for _ in range(3)]
            await asyncio.sleep(0.3)
            session: Any = engine._session
            began = time.monotonic()
            os.kill(session.client.pid, signal.SIGKILL)
            found = await asyncio.gather(*waiting, return_exceptions=True)
            assert time.monotonic() - began < 5
            assert all(isinstance(error, EngineDeadError) and "SIGKILL" in str(error) for error in found)
            await engine.restart()
            assert "Paris" in await answer(GREEDY)

    asyncio.run(body())
