"""The checks of whole models: they pass a platform that is right and catch one that is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from hardpoint import LLM
from hardpoint.outputs import RequestOutput
from hardpoint.testing.conformance import invariance, models
from hardpoint.testing.tiny_models import VOCAB

PROMPTS = models.prompts(VOCAB, count=6, longest=40)
SETTINGS = {"platform": "cpu", "threads": 1, "num_blocks": 120}


@pytest.fixture(scope="module")
def run() -> Callable[[Path, str], tuple[list[RequestOutput], list[list[int]]]]:
    def go(folder: Path, dtype: str) -> tuple[list[RequestOutput], list[list[int]]]:
        with LLM(str(folder), dtype=dtype, **SETTINGS, **invariance.COMMON) as llm:
            return models.all_logprobs(llm, PROMPTS[:3], 5), models.greedy(llm, PROMPTS, 24)

    return go


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_right_platform_passes(
    dtype: str, tiny: Callable[[str], Path], run: Callable[[Path, str], tuple[list[RequestOutput], list[list[int]]]]
) -> None:
    folder = tiny("Qwen3ForCausalLM")
    outputs, tokens = run(folder, dtype)
    reference = models.Reference(folder, dtype)
    errors, verdict = reference.errors(outputs), reference.judge_all(PROMPTS, tokens)
    models.check_errors(errors, dtype)
    models.check_verdict(verdict, routed=False)
    assert verdict.tokens == 24 * len(PROMPTS)
    assert len(errors.mine) == sum(len(prompt) - 1 for prompt in PROMPTS[:3]) + 3 * 5
    if dtype == "float32":
        assert verdict.close == 0
        assert not errors.theirs.any()
    else:
        assert errors.theirs.min() > 0


def test_what_is_wrong_is_caught(
    tiny: Callable[[str], Path], run: Callable[[Path, str], tuple[list[RequestOutput], list[list[int]]]]
) -> None:
    folder = tiny("Qwen3ForCausalLM")
    outputs, tokens = run(folder, "bfloat16")
    reference = models.Reference(folder, "bfloat16")
    # A token that the model likes least.
    worst = int(reference.logits(PROMPTS[0])[-1].argmin())
    bad = reference.judge(PROMPTS[0], [worst, *tokens[0][1:]])
    assert "token 0 of the output" in bad.wrong[0]
    with pytest.raises(AssertionError, match="token 0 of the output"):
        models.check_verdict(bad, routed=False)
    # Another prompt's answer.
    assert len(reference.judge(PROMPTS[0], tokens[1]).wrong) > 3
    # Log-probabilities that are off by more than the type explains, at every second position.
    for output in outputs:
        for row in (output.outputs[0].logprobs or [])[::2] + (output.prompt_logprobs or [])[1::2]:
            for i, value in row.items():
                row[i] = type(value)(value.logprob + 0.3 * (-1) ** i)
    with pytest.raises(AssertionError, match="ratio"):
        models.check_errors(reference.errors(outputs), "bfloat16")
    outputs[0].outputs[0].logprobs = None
    with pytest.raises(ValueError, match="ask for all"):
        reference.errors(outputs)


def test_a_near_tie_is_counted_and_a_clear_choice_is_not(tiny: Callable[[str], Path]) -> None:
    reference = models.Reference(tiny("Qwen3ForCausalLM"), "bfloat16")
    for prompt in PROMPTS:
        logits = reference.logits(prompt)[-1]
        (best, second), order = logits.topk(2).values.tolist(), logits.topk(2).indices.tolist()
        noise = float(reference.noise([*prompt, order[1]])[-2].abs().max())
        resolved = max(best * torch.finfo(torch.bfloat16).eps, 2 * noise)
        verdict = reference.judge(prompt, [order[1]])
        assert (verdict.close, len(verdict.wrong)) == ((1, 0) if best - second <= resolved else (0, 1))
        assert reference.judge(prompt, [order[0]]) == models.Verdict(tokens=1, close=0)


def test_a_router_may_turn_elsewhere_now_and_then() -> None:
    few = models.Verdict(tokens=100, close=3, wrong=("a",) * 5)
    models.check_verdict(few, routed=True)
    for verdict, routed in ((few, False), (models.Verdict(tokens=100, close=0, wrong=("a",) * 6), True)):
        with pytest.raises(AssertionError):
            models.check_verdict(verdict, routed=routed)
    steady = models.Errors(mine=np.full(10, 0.1), theirs=np.full(10, 0.1))
    models.check_errors(steady, "bfloat16")
    with pytest.raises(AssertionError):
        models.check_errors(steady, "float32")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["LlamaForCausalLM", "Gemma3ForCausalLM"])
def test_nothing_but_the_prompt_decides(name: str, tiny: Callable[[str], Path]) -> None:
    prompts = models.prompts(VOCAB)
    settings = {"platform": "cpu", "dtype": "float32", "threads": 1, "kv_cache_memory": "50M"}
    both, info = invariance.default_run(tiny(name), prompts, 48, **settings)
    expected = both[: len(prompts)]
    assert both[len(prompts) :] == expected
    seen = dict(invariance.variant_runs(tiny(name), prompts, 48, info, **settings))
    assert set(seen) == set(invariance.VARIANTS)
    assert all(tokens == expected for tokens in seen.values())
