"""``LLM`` over a scripted engine: order, parameters, errors, interrupts, beam search."""

from __future__ import annotations

import math
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import hardpoint
from hardpoint import LLM, BeamSearchParams, ConfigError, EngineDeadError, RequestError, SamplingParams
from hardpoint.beam_search import BeamSearch
from hardpoint.engine.messages import EngineRequest
from hardpoint.outputs import BatchError, CompletionOutput, Logprob, RequestOutput
from hardpoint.text.model_text import ModelText
from scripted_engine import ScriptedClient
from tiny_tokenizers import tiny_tokenizer

TOKENIZER = tiny_tokenizer()
EOS = TOKENIZER.eos_token_id


def echo(request: EngineRequest, index: int) -> list[int]:
    """Say the prompt again, later sequences from further on; long prompts therefore say more."""
    return request.token_ids.tolist()[index:]


@pytest.fixture
def client() -> ScriptedClient:
    return ScriptedClient(echo, vocab_size=len(TOKENIZER), max_model_len=256, width=3)


@pytest.fixture
def llm(client: ScriptedClient) -> Iterator[LLM]:
    text = ModelText.of(TOKENIZER, config={"eos_token_id": EOS}, generation_config={"temperature": 0.25, "top_k": 7})
    with LLM.over(client, text) as llm:
        yield llm
    assert client.closed


def generate(llm: LLM, prompts: Any, **params: Any) -> list[RequestOutput]:
    return llm.generate(prompts, SamplingParams(**params), use_tqdm=False)


def test_outputs_come_in_the_order_of_the_prompts(llm: LLM) -> None:
    prompts = [f"prompt number {number}" for number in range(20)]
    params = [SamplingParams(max_tokens=20 - number) for number in range(20)]
    outputs = llm.generate(prompts, params, use_tqdm=False)
    assert [output.prompt for output in outputs] == prompts
    assert [len(output.outputs[0].token_ids) for output in outputs] == [20 - number for number in range(20)]
    assert all(output.finished for output in outputs)


@pytest.mark.parametrize(
    "prompt", ["Hello", {"prompt": "Hello"}, {"prompt_token_ids": [1, 2]}, [1, 2], (1, 2), np.array([1, 2])]
)
def test_a_single_prompt_gives_a_list_of_one(llm: LLM, prompt: Any) -> None:
    (output,) = generate(llm, prompt, max_tokens=2)
    assert output.outputs[0].token_ids == output.prompt_token_ids[:2]


def test_lists_of_every_form(llm: LLM) -> None:
    conversation = [{"role": "user", "content": "Hi"}]
    outputs = generate(llm, ["Hello", [1, 2], {"prompt_token_ids": [3]}, conversation], max_tokens=1)
    assert [output.prompt_token_ids for output in outputs[:3]] == [TOKENIZER.encode("Hello"), [1, 2], [3]]
    assert outputs[3].prompt == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert generate(llm, []) == []
    assert [output.prompt_token_ids for output in generate(llm, [[1, 2], [3]], max_tokens=1)] == [[1, 2], [3]]


def test_the_shared_benchmarks_way_of_calling(llm: LLM) -> None:
    prompts = [{"prompt_token_ids": [5, 6, 7]}, {"prompt_token_ids": [8]}]
    params = [SamplingParams(temperature=0.0, max_tokens=o, ignore_eos=True, detokenize=False) for o in (4, 6)]
    assert llm.reset_prefix_cache()
    outputs = llm.generate(prompts, params, use_tqdm=False)
    assert [len(output.outputs[0].token_ids) for output in outputs] == [4, 6]
    assert [output.outputs[0].text for output in outputs] == ["", ""]


def test_default_parameters_are_the_models(llm: LLM, client: ScriptedClient) -> None:
    assert llm.get_default_sampling_params() == SamplingParams(temperature=0.25, top_k=7)
    llm.generate("Hello", use_tqdm=False)
    assert (client.added[0].params.temperature, client.added[0].params.top_k) == (0.25, 7)


def test_several_sequences(llm: LLM) -> None:
    (output,) = generate(llm, "Hello world", n=3, max_tokens=2)
    ids = TOKENIZER.encode("Hello world")
    assert [c.token_ids for c in output.outputs] == [(ids[i:] * 2)[:2] for i in range(3)]


def test_stop_strings_in_the_middle_of_a_token(llm: LLM, client: ScriptedClient) -> None:
    (output,) = generate(llm, "The quick brown fox", stop=["ick b"], max_tokens=50)
    assert output.outputs[0].text == "The qu"
    assert output.outputs[0].stop_reason == "ick b"
    assert client.num_live == 0


def test_priorities_reach_the_engine(llm: LLM, client: ScriptedClient) -> None:
    llm.generate(["a", "b"], SamplingParams(max_tokens=1), use_tqdm=False, priority=[3, -1])
    assert [request.priority for request in client.added] == [3, -1]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((["a", "b"], [SamplingParams()]), "sampling_params has 1 entries for 2 prompts"),
        ((["a"], {"temperature": 0}), "must be SamplingParams"),
        ((["a", ""], SamplingParams()), "prompt is empty"),
        ((["a", [10**6]], SamplingParams()), "outside the vocabulary"),
    ],
)
def test_bad_calls_run_nothing(llm: LLM, client: ScriptedClient, arguments: Any, reason: str) -> None:
    with pytest.raises(RequestError, match=reason):
        llm.generate(*arguments, use_tqdm=False)
    assert client.added == []
    assert len(generate(llm, "a", max_tokens=1)) == 1


def test_a_prompt_that_fails_while_it_runs_does_not_lose_the_others(llm: LLM, client: ScriptedClient) -> None:
    client.refuse["1"] = "RequestError"
    with pytest.raises(BatchError, match="1 of 3 prompts failed; the first is prompt 1: no place") as caught:
        generate(llm, ["a", "b", "c"], max_tokens=2)
    assert [output is None for output in caught.value.outputs] == [False, True, False]
    client.refuse["3"] = "QueueFullError"
    with pytest.raises(hardpoint.HardpointError, match="no place"):
        generate(llm, ["a"], max_tokens=2)


def test_chat_renders_and_answers(llm: LLM, client: ScriptedClient) -> None:
    conversations = [[{"role": "user", "content": text}] for text in ("one", "two")]
    outputs = llm.chat(conversations, SamplingParams(max_tokens=1), use_tqdm=False)
    assert [output.prompt for output in outputs] == [
        f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n" for text in ("one", "two")
    ]
    (single,) = llm.chat(
        [*conversations[0], {"role": "assistant", "content": "I"}],
        use_tqdm=False,
        add_generation_prompt=False,
        continue_final_message=True,
        sampling_params=SamplingParams(max_tokens=1),
    )
    assert single.prompt is not None
    assert single.prompt.endswith("assistant\nI")
    (with_tools,) = llm.chat(
        conversations[0],
        SamplingParams(max_tokens=1),
        use_tqdm=False,
        tools=[{"type": "function", "function": {"name": "f"}}],
        chat_template="{{ tools[0].function.name }}{{ mood }}",
        chat_template_kwargs={"mood": "!"},
    )
    assert with_tools.prompt == "f!"


def test_the_tokenizer_is_transformers(llm: LLM) -> None:
    assert llm.get_tokenizer() is TOKENIZER.hf


def test_metrics_are_the_schedulers(llm: LLM) -> None:
    generate(llm, "Hello", max_tokens=3)
    assert llm.get_metrics()["steps"] == 3


def test_progress_is_shown_on_a_bar(llm: LLM) -> None:
    bars = []

    class Bar:
        format_dict = {"elapsed": 2.0}  # noqa: RUF012  (as tqdm's)

        def __init__(self, **options: Any) -> None:
            self.total, self.done, self.postfix = options["total"], 0, ""
            bars.append(self)

        def __enter__(self) -> Bar:
            return self

        def __exit__(self, *error: object) -> None:
            self.left = True

        def update(self, more: int) -> None:
            self.done += more

        def set_postfix_str(self, text: str, refresh: bool) -> None:
            self.postfix = text

    llm.generate(["a", "b"], SamplingParams(max_tokens=3), use_tqdm=Bar)
    assert (bars[0].total, bars[0].done, bars[0].left) == (2, 2, True)
    assert bars[0].postfix == "output: 3.0 tok/s"


def test_an_interrupt_ends_the_call_between_steps_and_leaves_the_llm_usable(llm: LLM, client: ScriptedClient) -> None:
    finished_steps = []

    def interrupt(step: int) -> None:
        if step == 2:
            os.kill(os.getpid(), signal.SIGINT)
        finished_steps.append(step)

    client.before_step = interrupt
    with pytest.raises(KeyboardInterrupt):
        generate(llm, ["Hello", "world"], max_tokens=100)
    assert finished_steps == [0, 1, 2], "the step in which the interrupt came was not torn"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert client.num_live == 0
    client.before_step = lambda step: None
    assert generate(llm, "Hello", max_tokens=2)[0].outputs[0].finish_reason == "length"


def test_a_second_interrupt_does_not_wait_for_the_step(llm: LLM, client: ScriptedClient) -> None:
    def stuck(step: int) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("the step went on")

    client.before_step = stuck
    with pytest.raises(KeyboardInterrupt):
        generate(llm, "Hello", max_tokens=100)


def test_a_dead_engine_says_why_now_and_later(llm: LLM, client: ScriptedClient) -> None:
    client.before_step = lambda step: client.kill("out of paper") if step == 1 else None
    for _ in range(2):
        with pytest.raises(EngineDeadError, match="out of paper"):
            generate(llm, ["Hello"], max_tokens=100)


def test_calls_from_several_threads_take_turns(llm: LLM) -> None:
    outputs: dict[int, list[RequestOutput]] = {}
    threads = [
        threading.Thread(target=lambda n=n: outputs.update({n: generate(llm, [f"thread {n}"] * 3, max_tokens=5)}))
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {n: [o.prompt for o in found] for n, found in outputs.items()} == {n: [f"thread {n}"] * 3 for n in range(4)}


def test_a_closed_llm_says_so(client: ScriptedClient) -> None:
    llm = LLM.over(client, ModelText.of(None))
    llm.close()
    llm.close()
    with pytest.raises(EngineDeadError, match="closed"):
        generate(llm, [[1]])


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"max_modellen": 5}, "no setting 'max_modellen'; did you mean 'max_model_len'"),
        ({"tokenizer_mode": "slow"}, "tokenizer_mode='slow' has no meaning here"),
        ({"pipeline_parallel_size": 2}, "only tensor parallelism"),
        ({"speculative_config": {"method": "ngram"}}, "no installed plugin serves it"),
        ({"max_num_seqs": 0}, "must be at least 1"),
        ({"chat_template": "/nowhere.jinja"}, "neither a readable file nor a template"),
    ],
)
def test_settings_that_mean_nothing_are_errors_before_anything_is_loaded(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        LLM("hardpoint/demo", skip_tokenizer_init=True, **settings)


class Bigrams:
    """A model whose next token depends on the last one only, by a table of probabilities."""

    def __init__(self, table: dict[int, dict[int, float]]) -> None:
        self.table = table
        self.batches: list[int] = []

    def expand(self, beams: list[list[int]], params: SamplingParams) -> list[RequestOutput]:
        self.batches.append(len(beams))
        assert (params.max_tokens, params.ignore_eos) == (1, True)
        return [self.output(beam, params.logprobs or 0) for beam in beams]

    def output(self, beam: list[int], k: int) -> RequestOutput:
        row = sorted(self.table[beam[-1]].items(), key=lambda item: -item[1])[:k]
        logprobs = {token: Logprob(math.log(p), rank + 1) for rank, (token, p) in enumerate(row)}
        return RequestOutput("r", None, beam, None, [CompletionOutput(0, "", [row[0][0]], None, [logprobs])], True)


END = 9
TABLE = {
    1: {2: 0.6, 3: 0.4},
    2: {4: 0.34, 5: 0.33, 6: 0.33},
    3: {4: 0.9, 5: 0.1},
    4: {END: 0.5, 5: 0.5},
    5: {END: 0.9, 4: 0.1},
    6: {4: 1.0},
    END: {END: 1.0},
}


def brute_force(start: int, params: BeamSearchParams, prompt: int) -> list[list[int]]:
    """Every sequence of at most ``max_tokens`` tokens by score; ties cannot occur in the table's best ones."""
    done: list[tuple[float, list[int]]] = []
    grow = [(0.0, [start])]
    for _ in range(params.max_tokens):
        grow = [(s + math.log(p), [*ids, token]) for s, ids in grow for token, p in TABLE[ids[-1]].items()]
        if not params.ignore_eos:
            done += [one for one in grow if one[1][-1] == END]
            grow = [one for one in grow if one[1][-1] != END]

    def score(one: tuple[float, list[int]]) -> float:
        length = len(one[1]) - (one[1][-1] == END)
        return one[0] / length**params.length_penalty

    return [ids for _, ids in sorted([*done, *grow], key=score, reverse=True)]


@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("max_tokens", [1, 2, 4])
def test_wide_beams_find_what_brute_force_finds(penalty: float, max_tokens: int) -> None:
    params = BeamSearchParams(beam_width=40, max_tokens=max_tokens, length_penalty=penalty)
    search = BeamSearch(params, Bigrams(TABLE).expand, eos_token_ids=[END], max_model_len=100)
    found = search.run([[1]])[0].sequences
    expected = brute_force(1, params, 1)
    assert [beam.tokens for beam in found[:2]] == expected[:2]
    assert {tuple(beam.tokens) for beam in found} == {tuple(ids) for ids in expected}
    for beam in found:
        steps = zip(beam.tokens, beam.tokens[1:], strict=False)
        assert beam.cum_logprob == pytest.approx(sum(math.log(TABLE[a][b]) for a, b in steps))
        assert len(beam.logprobs) == len(beam.tokens) - 1
        assert beam.finish_reason == ("stop" if beam.tokens[-1] == END else "length")


def test_beams_beat_greedy_and_share_batches_between_prompts() -> None:
    model = Bigrams(TABLE)
    params = BeamSearchParams(beam_width=2, max_tokens=2, length_penalty=1.0)
    search = BeamSearch(params, model.expand, eos_token_ids=[END], max_model_len=100)
    first, second = search.run([[1], [3]])
    assert first.sequences[0].tokens == [1, 3, 4], "0.4 * 0.9 beats 0.6 * 0.34, which greedy takes"
    assert len(first.sequences) == len(second.sequences) == 2
    assert model.batches == [2, 4]


def test_ignoring_the_end_token_goes_on_after_it() -> None:
    params = BeamSearchParams(beam_width=1, max_tokens=5, ignore_eos=True)
    search = BeamSearch(params, Bigrams(TABLE).expand, eos_token_ids=[END], max_model_len=100)
    beam = search.run([[5]])[0].sequences[0]
    assert beam.tokens == [5, END, END, END, END, END]
    assert beam.finish_reason == "length"


def test_beams_end_where_the_context_ends() -> None:
    params = BeamSearchParams(beam_width=2, max_tokens=50, ignore_eos=True)
    search = BeamSearch(params, Bigrams(TABLE).expand, eos_token_ids=[END], max_model_len=6)
    assert [len(beam.tokens) for beam in search.run([[1, 2]])[0].sequences] == [6, 6]


def test_beam_search_through_the_engine_makes_text(llm: LLM, client: ScriptedClient) -> None:
    outputs = llm.beam_search(["Hello", {"prompt": "world"}], BeamSearchParams(beam_width=2, max_tokens=3))
    assert [len(output.sequences) for output in outputs] == [2, 2]
    best = outputs[0].sequences[0]
    assert best.tokens[: len(TOKENIZER.encode("Hello"))] == TOKENIZER.encode("Hello")
    assert best.text == TOKENIZER.decode(best.tokens, skip_special_tokens=False)
    assert all(request.params.logprobs == 4 for request in client.added)
