"""Greedy output depends on the prompt alone: not on batch, chunks, blocks, cache, preemption, pipeline or process."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hardpoint import LLM, SamplingParams
from prompts import prompts_with_shared_prefixes

PROMPTS = prompts_with_shared_prefixes(9, vocab=200)
OUTPUT = 24


def run(folder: Path, prompts: list[list[int]], **changes: Any) -> list[list[int]]:
    """Return the greedy tokens of ``prompts``, all given at once."""
    settings = {"dtype": "float32", "skip_tokenizer_init": True, "max_model_len": 128, "threads": 1, **changes}
    params = SamplingParams(temperature=0.0, max_tokens=OUTPUT, ignore_eos=True, detokenize=False)
    with LLM(str(folder), **settings) as llm:
        outputs = llm.generate([{"prompt_token_ids": p} for p in prompts], params, use_tqdm=False)
    return [list(output.outputs[0].token_ids) for output in outputs]


@functools.cache
def alone(folder: Path) -> list[list[int]]:
    """Return each prompt's tokens when it runs by itself, unchunked and uncached."""
    settings = {"max_num_seqs": 1, "enable_prefix_caching": False, "max_num_batched_tokens": 512, "num_blocks": 64}
    return run(folder, PROMPTS, **settings)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    block_size=st.sampled_from([1, 4, 16, 32]),
    max_num_batched_tokens=st.sampled_from([8, 17, 64, 512]),
    max_num_seqs=st.sampled_from([1, 2, 8]),
    enable_prefix_caching=st.booleans(),
    async_scheduling=st.booleans(),
    room=st.sampled_from([1.0, 1.5, 4.0]),
    order=st.permutations(range(len(PROMPTS))),
)
def test_greedy_output_depends_on_the_prompt_alone(
    tiny: Path,
    block_size: int,
    room: float,
    order: list[int],
    max_num_seqs: int,
    max_num_batched_tokens: int,
    **changes: Any,
) -> None:
    """``room`` is the cache's size in longest sequences: at 1.0 every second sequence preempts another."""
    groups = 1 if "Llama" in tiny.name else 3
    outputs = run(
        tiny,
        [PROMPTS[i] for i in order],
        block_size=block_size,
        num_blocks=int(groups * (128 // block_size) * room) + 1,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max(max_num_batched_tokens, max_num_seqs),
        **changes,
    )
    expected = alone(tiny)
    assert outputs == [expected[i] for i in order]


def test_preemption_happens_and_changes_nothing(tiny_llama: Path) -> None:
    """The tight configuration above does preempt; otherwise it would prove nothing."""
    expected = run(tiny_llama, PROMPTS, max_num_seqs=1, enable_prefix_caching=False, num_blocks=64)
    params = SamplingParams(temperature=0.0, max_tokens=OUTPUT, ignore_eos=True, detokenize=False)
    tight = {"block_size": 4, "num_blocks": 33, "max_num_seqs": 8, "max_model_len": 128, "threads": 1}
    with LLM(str(tiny_llama), dtype="float32", skip_tokenizer_init=True, **tight) as llm:
        outputs = llm.generate([{"prompt_token_ids": p} for p in PROMPTS], params, use_tqdm=False)
        assert llm.get_metrics()["preemptions"] > 0
        assert llm.get_metrics()["blocks_used"] == 0
    assert [list(o.outputs[0].token_ids) for o in outputs] == expected


def test_an_engine_in_a_process_of_its_own_gives_the_same(tiny_llama: Path) -> None:
    assert run(tiny_llama, PROMPTS, in_process=False) == run(tiny_llama, PROMPTS)


def test_two_ranks_give_the_same_as_one(tiny: Path) -> None:
    """Two worker processes over gloo."""
    assert run(tiny, PROMPTS, tensor_parallel_size=2) == run(tiny, PROMPTS)


@pytest.mark.parametrize("n", [3])
def test_sequences_of_one_request_equal_requests_of_their_own(tiny_llama: Path, n: int) -> None:
    """Greedy sequences of one prompt are equal to each other and to a request without siblings."""
    expected = run(tiny_llama, PROMPTS)
    params = SamplingParams(n=n, temperature=0.0, max_tokens=OUTPUT, ignore_eos=True, detokenize=False)
    with LLM(str(tiny_llama), dtype="float32", skip_tokenizer_init=True, max_model_len=128, threads=1) as llm:
        outputs = llm.generate([{"prompt_token_ids": p} for p in PROMPTS], params, use_tqdm=False)
    for output, tokens in zip(outputs, expected, strict=True):
        assert [list(c.token_ids) for c in output.outputs] == [tokens] * n
