"""Engine outputs to request outputs: text, stops, deltas, logprobs, errors of one request alone."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardpoint.contract.errors import EngineDeadError, QueueFullError, RequestError
from hardpoint.engine.inputs import InputProcessor
from hardpoint.engine.messages import EngineOutputs, Finish
from hardpoint.engine.outputs import OutputProcessor
from hardpoint.outputs import RequestOutput
from hardpoint.params import SamplingParams
from hardpoint.text.model_text import ModelText
from scripted_engine import ScriptedClient
from tiny_tokenizers import tiny_tokenizer

TOKENIZER = tiny_tokenizer()
EOS = TOKENIZER.eos_token_id
TEXT = "Hello world! Größe 🙂, it's Paris."
SAID = TOKENIZER.encode(TEXT)


class Bench:
    """A scripted engine with an input and an output processor."""

    def __init__(
        self, said: list[int], *, tokenizer: Any = TOKENIZER, per_step: int = 1, max_model_len: int = 200
    ) -> None:
        self.client = ScriptedClient(
            lambda request, index: said[index:], vocab_size=500, per_step=per_step, max_model_len=max_model_len
        )
        text = ModelText.of(tokenizer, config={"eos_token_id": EOS})
        self.inputs = InputProcessor(text, self.client.info)
        self.processor = OutputProcessor(tokenizer)
        self.errors: dict[str, Exception] = {}

    def add(self, name: str = "r", prompt: Any = (1, 2, 3), **params: Any) -> None:
        prepared = self.inputs.prepare(self.inputs.tokenize(prompt), SamplingParams(**params), request_id=name)
        self.processor.add(prepared)
        self.client.add(prepared.request)

    def step(self) -> list[RequestOutput]:
        outputs = self.client.poll(0)
        if outputs is None:
            return []
        processed = self.processor.process(outputs)
        if processed.abort:
            self.client.abort(processed.abort)
        self.errors.update(processed.errors)
        return processed.outputs

    def run(self) -> list[RequestOutput]:
        found = []
        while len(self.processor):
            found += self.step()
        return found


def run(said: list[int] = SAID, per_step: int = 1, **params: Any) -> list[RequestOutput]:
    bench = Bench(said, per_step=per_step)
    bench.add(**{"max_tokens": len(said), **params})
    return bench.run()


def test_cumulative_outputs_grow_and_the_last_one_is_whole() -> None:
    outputs = run()
    texts = [output.outputs[0].text for output in outputs]
    assert len(outputs) == len(SAID)
    assert all(late.startswith(early) for early, late in itertools.pairwise(texts))
    last = outputs[-1].outputs[0]
    assert (last.text, last.token_ids, last.finish_reason) == (TEXT, SAID, "length")
    assert outputs[-1].finished
    assert last.finished()
    assert not any(output.finished for output in outputs[:-1])


def test_deltas_join_to_the_whole_and_hold_no_half_characters() -> None:
    outputs = run(output_kind="delta")
    assert "".join(output.outputs[0].text for output in outputs) == TEXT
    assert [token for output in outputs for token in output.outputs[0].token_ids] == SAID
    assert not any("\ufffd" in output.outputs[0].text for output in outputs)


def test_final_only_gives_one_output() -> None:
    (output,) = run(output_kind="final_only")
    assert output.outputs[0].text == TEXT


@given(st.integers(1, 5), st.integers(1, 4))
def test_a_stream_interval_gives_the_first_token_then_every_so_many(interval: int, per_step: int) -> None:
    outputs = run(output_kind="delta", stream_interval=interval, per_step=per_step)
    sizes = [len(output.outputs[0].token_ids) for output in outputs]
    assert sizes[0] == min(per_step, len(SAID))
    assert all(size >= interval for size in sizes[1:-1])
    assert sum(sizes) == len(SAID)
    assert "".join(output.outputs[0].text for output in outputs) == TEXT


@pytest.mark.parametrize("per_step", [1, 3, 7])
@pytest.mark.parametrize("kind", ["delta", "cumulative", "final_only"])
@pytest.mark.parametrize("include", [False, True])
@pytest.mark.parametrize("stop", ["world", "o w", "rld! Gr", ["zzz", "Größe"], "🙂", "."])
def test_stop_strings_end_the_text_and_the_engine_is_told(
    per_step: int, kind: str, include: bool, stop: str | list[str]
) -> None:
    bench = Bench([*SAID, *SAID], per_step=per_step)
    bench.add(stop=stop, include_stop_str_in_output=include, output_kind=kind, max_tokens=2 * len(SAID))
    outputs = bench.run()
    found = stop if isinstance(stop, str) else "Größe"
    expected = TEXT[: TEXT.index(found) + (len(found) if include else 0)]
    last = outputs[-1].outputs[0]
    text = "".join(output.outputs[0].text for output in outputs) if kind == "delta" else last.text
    assert (text, last.finish_reason, last.stop_reason) == (expected, "stop", found)
    assert outputs[-1].finished
    assert bench.client.num_live == 0
    assert bench.client.aborted == list(bench.client.added[0].handles)
    ids = [token for output in outputs for token in output.outputs[0].token_ids] if kind == "delta" else last.token_ids
    needed = next(n for n in range(len(SAID) + 1) if found in TOKENIZER.decode(SAID[:n]))
    assert ids == SAID[:needed], "tokens after the one that completed the stop string are dropped"
    assert bench.step() == [], "the engine's own Finish of the aborted sequence says nothing new"


def test_the_end_and_the_stop_string_with_one_token_need_no_abort() -> None:
    bench = Bench(SAID)
    bench.add(stop=".", max_tokens=len(SAID))
    last = bench.run()[-1].outputs[0]
    assert (last.finish_reason, last.stop_reason, last.text) == ("stop", ".", TEXT[:-1])
    assert bench.client.aborted == []


def test_held_back_text_appears_when_the_sequence_ends_otherwise() -> None:
    outputs = run(stop="Paris.!", output_kind="delta")
    assert "".join(output.outputs[0].text for output in outputs) == TEXT
    assert outputs[-1].outputs[0].finish_reason == "length"


def test_stop_strings_wait_for_min_tokens() -> None:
    first = len(TOKENIZER.encode("Hello world"))
    last = run([*SAID, *SAID], stop="world", min_tokens=first + 2, max_tokens=2 * len(SAID))[-1].outputs[0]
    assert last.text == TEXT + "Hello "
    assert last.stop_reason == "world"


@pytest.mark.parametrize("include", [False, True])
def test_end_token_is_in_the_ids_but_not_in_the_text(include: bool) -> None:
    said = [*TOKENIZER.encode("Hello"), EOS, *SAID]
    last = run(said, include_stop_str_in_output=include, skip_special_tokens=False)[-1].outputs[0]
    assert last.text == ("Hello<|end|>" if include else "Hello")
    assert last.token_ids == [*TOKENIZER.encode("Hello"), EOS]
    assert (last.finish_reason, last.stop_reason) == ("stop", None)


def test_stop_token_is_named_as_the_reason_and_not_part_of_the_text() -> None:
    world = TOKENIZER.encode(" world")[-1]
    last = run(stop_token_ids=[world])[-1].outputs[0]
    assert last.stop_reason == world
    assert last.token_ids[-1] == world
    assert last.text == TOKENIZER.decode(last.token_ids[:-1])


def test_incomplete_bytes_are_replaced_only_at_the_end() -> None:
    half = TOKENIZER.encode("🙂")[:1]
    assert "\ufffd" not in "".join(output.outputs[0].text for output in run([*half, *half], max_tokens=1)[:-1])
    assert run([*SAID, *half], max_tokens=len(SAID) + 1)[-1].outputs[0].text == TEXT + TOKENIZER.decode(half)


def test_several_sequences_finish_on_their_own() -> None:
    said = [*TOKENIZER.encode("ab"), EOS]
    for kind in ("delta", "cumulative", "final_only"):
        outputs = run(said, n=3, output_kind=kind, max_tokens=10)
        assert [output.finished for output in outputs] == [False] * (len(outputs) - 1) + [True]
        if kind == "cumulative":
            assert all([c.index for c in output.outputs] == [0, 1, 2] for output in outputs)
        if kind != "delta":
            texts = [completion.text for completion in outputs[-1].outputs]
            assert texts == [TOKENIZER.decode(said[index:-1]) for index in range(3)]
            assert all(completion.finish_reason == "stop" for completion in outputs[-1].outputs)
        else:
            merged = outputs[0]
            for output in outputs[1:]:
                merged.add(output, aggregate=True)
            assert [c.text for c in merged.outputs] == [TOKENIZER.decode(said[index:-1]) for index in range(3)]


@pytest.mark.parametrize("kind", ["delta", "cumulative"])
def test_logprobs_have_vllms_shape(kind: str) -> None:
    outputs = run(logprobs=2, prompt_logprobs=1, output_kind=kind)
    last = outputs[-1].outputs[0]
    if kind == "delta":
        logprobs = [one for output in outputs for one in output.outputs[0].logprobs or []]
        assert [output.prompt_logprobs is not None for output in outputs] == [True] + [False] * (len(outputs) - 1)
        prompt = outputs[0].prompt_logprobs
    else:
        logprobs, prompt = last.logprobs or [], outputs[-1].prompt_logprobs
    assert len(logprobs) == len(SAID)
    for token, position in zip(SAID, logprobs, strict=True):
        assert next(iter(position)) == token
        assert position[token].rank == 2
        assert position[token].logprob == -0.5
        assert position[7].rank == 1
        assert position[8].rank == 2
        assert position[token].decoded_token == TOKENIZER.token_text(token)
    assert last.cumulative_logprob == pytest.approx(-0.5 * len(SAID))
    assert prompt is not None
    assert prompt[0] is None
    assert [set(one) for one in prompt[1:] if one is not None] == [{2, 7}, {3, 7}]


def test_logprobs_zero_is_the_token_alone() -> None:
    assert [list(one) for one in run(logprobs=0)[-1].outputs[0].logprobs or []] == [[token] for token in SAID]


def test_logprobs_of_tokens_dropped_by_a_stop_string_are_dropped() -> None:
    last = run([*SAID, *SAID], per_step=50, stop="world", logprobs=1, max_tokens=2 * len(SAID))[-1].outputs[0]
    assert len(last.logprobs or []) == len(last.token_ids)


def test_nothing_asked_for_nothing_given() -> None:
    last = run()[-1]
    assert last.outputs[0].logprobs is None
    assert last.outputs[0].cumulative_logprob is None
    assert last.prompt_logprobs is None


def test_without_a_tokenizer_there_are_ids_and_no_text() -> None:
    bench = Bench(SAID, tokenizer=None)
    bench.add(max_tokens=5, logprobs=1)
    last = bench.run()[-1].outputs[0]
    assert (last.text, last.token_ids) == ("", SAID[:5])
    assert (last.logprobs or [])[0][SAID[0]].decoded_token is None


def test_detokenize_false_makes_no_text() -> None:
    assert run(detokenize=False)[-1].outputs[0].text == ""


def test_prompt_metrics_and_cache_are_reported() -> None:
    bench = Bench(SAID)
    bench.add(prompt="Hello", max_tokens=4)
    last = bench.run()[-1]
    assert (last.prompt, last.prompt_token_ids) == ("Hello", TOKENIZER.encode("Hello"))
    assert last.num_cached_tokens == 0
    metrics = last.metrics
    assert metrics is not None
    assert metrics.num_generation_tokens == 4
    assert metrics.first_token_time is not None
    assert metrics.finished_time is not None
    assert metrics.arrival_time <= metrics.first_token_time <= metrics.finished_time


def test_an_abort_gives_what_was_generated() -> None:
    bench = Bench(SAID)
    bench.add(max_tokens=len(SAID), n=2)
    bench.step()
    bench.client.abort(bench.processor.handles("r"))
    (last,) = bench.run()
    assert [completion.finish_reason for completion in last.outputs] == ["abort", "abort"]
    assert last.outputs[0].token_ids == SAID[:1]


@pytest.mark.parametrize(
    ("kind", "error"),
    [("RequestError", RequestError), ("QueueFullError", QueueFullError), ("Nonsense", EngineDeadError)],
)
def test_a_refused_request_fails_alone_with_its_own_class(kind: str, error: type[Exception]) -> None:
    bench = Bench(SAID)
    bench.client.refuse["bad"] = kind
    bench.add("bad", n=2, max_tokens=3)
    bench.add("good", max_tokens=3)
    outputs = bench.run()
    assert {output.request_id for output in outputs} == {"good"}
    assert type(bench.errors["bad"]) is error


def test_an_error_of_one_sequence_ends_its_request_and_the_engine_is_told() -> None:
    bench = Bench(SAID)
    bench.add("bad", n=3, max_tokens=9)
    bench.add("good", max_tokens=9)
    first, *others = bench.client.added[0].handles
    processed = bench.processor.process(
        EngineOutputs(
            handles=np.array([], np.int64),
            counts=np.array([], np.int32),
            tokens=np.array([], np.int32),
            finished=[Finish(first, "error", error="logits are not numbers")],
        )
    )
    assert set(others) <= set(processed.abort)
    assert [(name, str(error)) for name, error in processed.errors] == [("bad", "logits are not numbers")]
    bench.client.abort(processed.abort)
    assert {output.request_id for output in bench.run()} == {"good"}


def test_a_tokenizer_that_fails_ends_its_request_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(SAID)
    bench.add("bad", max_tokens=9)
    bench.add("good", max_tokens=9)

    def broken(token: int) -> str:
        raise KeyError(token)

    _, sequence = bench.processor._sequences[bench.client.added[0].handles[0]]
    monkeypatch.setattr(sequence._detokenizer, "push", broken)
    outputs = bench.run()
    assert {output.request_id for output in outputs} == {"good"}
    assert isinstance(bench.errors["bad"], KeyError)
    assert bench.client.num_live == 0


def test_a_request_id_in_use_is_refused() -> None:
    bench = Bench(SAID)
    bench.add("r", max_tokens=3)
    with pytest.raises(RequestError, match="still running"):
        bench.add("r", max_tokens=3)
    bench.run()
    bench.add("r", max_tokens=3)


def test_forgotten_requests_leave_nothing_behind() -> None:
    bench = Bench(SAID)
    bench.add("gone", n=2, max_tokens=9)
    bench.step()
    handles = bench.processor.forget(["gone", "unknown"])
    assert handles == list(bench.client.added[0].handles)
    assert len(bench.processor) == 0
    assert bench.step() == []


@given(
    st.integers(1, 7),
    st.sampled_from(["delta", "cumulative", "final_only"]),
    st.sampled_from([None, "it", "ö", "aris"]),
)
def test_text_does_not_depend_on_tokens_per_step(per_step: int, kind: str, stop: str | None) -> None:
    def text(size: int) -> tuple[str, Any, Any]:
        outputs = run(per_step=size, output_kind=kind, stop=stop)
        last = outputs[-1].outputs[0]
        whole = "".join(output.outputs[0].text for output in outputs) if kind == "delta" else last.text
        return whole, last.finish_reason, last.stop_reason

    assert text(per_step) == text(1)
