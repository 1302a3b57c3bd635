"""The sampler over a batch of rows: features, independence, resumption, and what plain rows pay."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hardpoint.ops import OpTable
from hardpoint.params import SamplingParams
from hardpoint.runner.sampling import Sampler
from unit.sampling.bench import HostDevice, one, probabilities, sample, sampler, start

VOCAB = 97
GREEDY = SamplingParams(temperature=0.0)


def logits_of(history: Sequence[int]) -> torch.Tensor:
    """Return the logits of a toy model: a function of a sequence's last two tokens, with values that tie."""
    seed = 31 * history[-1] + (history[-2] if len(history) > 1 else 0)
    noise = torch.randn(VOCAB, generator=torch.Generator().manual_seed(seed)) * 3
    return torch.round(noise * 4) / 4


def generate(params: SamplingParams, prompt: list[int], steps: int, eos: tuple[int, ...] = ()) -> list[int]:
    """Return what a request alone generates."""
    target = sampler(VOCAB)
    target.start(start(0, params, prompt, eos=eos))
    history = list(prompt)
    for _ in range(steps):
        history.append(int(sample(target, logits_of(history)[None], [0], [len(history)]).tokens[0]))
    return history[len(prompt) :]


ids = st.integers(0, VOCAB - 1)
words = st.lists(st.lists(ids, min_size=1, max_size=3), min_size=1, max_size=4)


@st.composite
def any_params(draw: st.DrawFn) -> SamplingParams:
    """Draw parameters with any mix of features."""
    given_: dict[str, Any] = {
        "seed": draw(st.integers(-(2**63), 2**63 - 1)),
        "temperature": draw(st.sampled_from([0.0, 0.3, 1.0, 1.7])),
        "max_tokens": 100,
    }
    optional = {
        "top_k": st.sampled_from([1, 5, 40, 200]),
        "top_p": st.sampled_from([0.2, 0.9]),
        "min_p": st.sampled_from([0.05, 0.5]),
        "presence_penalty": st.sampled_from([-1.5, 0.7]),
        "frequency_penalty": st.sampled_from([-0.5, 1.1]),
        "repetition_penalty": st.sampled_from([0.8, 1.3]),
        "logit_bias": st.dictionaries(ids, st.sampled_from([-100.0, -1.0, 2.5, 50.0]), min_size=1, max_size=4),
        "allowed_token_ids": st.lists(ids, min_size=12, max_size=30, unique=True),
        "bad_words_token_ids": words,
        "min_tokens": st.integers(1, 4),
        "stop_token_ids": st.lists(ids, min_size=1, max_size=3),
        "logprobs": st.sampled_from([0, 1, 5, -1]),
        "logprob_token_ids": st.lists(ids, min_size=1, max_size=3),
    }
    for name in draw(st.lists(st.sampled_from(sorted(optional)), unique=True, max_size=5)):
        given_[name] = draw(optional[name])
    return SamplingParams(**given_)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(any_params(), st.lists(ids, min_size=1, max_size=4)), min_size=1, max_size=5), st.integers())
def test_a_request_gets_the_same_tokens_in_any_company(
    given_requests: list[tuple[SamplingParams, list[int]]], seed: int
) -> None:
    requests = [params for params, _ in given_requests]
    prompts = [prompt for _, prompt in given_requests]
    fate, steps = random.Random(seed), 6
    alone = [generate(params, prompt, steps) for params, prompt in zip(requests, prompts, strict=True)]
    target = sampler(VOCAB)
    free, rows = list(range(16)), {}
    histories = [list(prompt) for prompt in prompts]
    while any(len(h) < len(p) + steps for h, p in zip(histories, prompts, strict=True)):
        for request, prompt in enumerate(prompts):
            # Requests start late, are preempted and resume in other rows.
            if request in rows:
                if fate.random() < 0.2:
                    target.stop(rows[request])
                    free.append(rows.pop(request))
            elif fate.random() < 0.5:
                row = free.pop(fate.randrange(len(free)))
                target.start(start(row, requests[request], prompt, histories[request][len(prompt) :]))
                rows[request] = row
        chosen = fate.sample(sorted(rows), fate.randint(0, len(rows)))
        if not chosen:
            continue
        logits = torch.stack([logits_of(histories[request]) for request in chosen])
        lengths = [len(histories[request]) for request in chosen]
        result = sample(target, logits, [rows[request] for request in chosen], lengths)
        for request, token in zip(chosen, result.tokens.tolist(), strict=True):
            histories[request].append(token)
    for history, prompt, expected in zip(histories, prompts, alone, strict=True):
        assert history[len(prompt) :][:steps] == expected


@pytest.mark.parametrize("seed", range(4))
def test_resuming_changes_nothing(seed: int) -> None:
    params = SamplingParams(
        temperature=1.2,
        seed=seed,
        top_p=0.95,
        presence_penalty=0.9,
        frequency_penalty=0.4,
        repetition_penalty=1.2,
        min_tokens=9,
        bad_words_token_ids=[[1, 2], [3, 4, 5], [6]],
        max_tokens=20,
    )
    prompt = [5, 6, 7, 7]
    whole = generate(params, prompt, 12, eos=(8, 9))
    for cut in (1, 3, 11):
        target = sampler(VOCAB)
        target.start(start(3, params, prompt, whole[:cut], eos=(8, 9)))
        history = prompt + whole[:cut]
        while len(history) < len(prompt) + 12:
            history.append(int(sample(target, logits_of(history)[None], [3], [len(history)]).tokens[0]))
        assert history[len(prompt) :] == whole


class Spy:
    """An op table that remembers which ops ran on how many rows."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []
        self._ops = OpTable()

    def __getattr__(self, name: str) -> Any:
        def run(first: torch.Tensor, *args: Any) -> Any:
            self.calls.append((name, len(first)))
            return getattr(self._ops, name)(first, *args)

        return run


def test_plain_greedy_rows_pay_for_one_op_and_hold_no_memory() -> None:
    spy = Spy()
    target = sampler(VOCAB, ops=spy)
    for row in range(8):
        target.start(start(row, GREEDY.replace(top_p=0.5, top_k=3, min_p=0.1)))
    logits = torch.randn(8, VOCAB)
    assert sample(target, logits, list(range(8)), [1] * 8).tokens.tolist() == logits.argmax(-1).tolist()
    assert spy.calls == [("best_token", 8)]
    assert target._penalties.capacity == 0


def test_only_rows_with_a_feature_pay_for_it() -> None:
    spy = Spy()
    target = sampler(2000, ops=spy)
    params = [
        GREEDY,
        SamplingParams(temperature=0.5),
        SamplingParams(top_p=0.9),
        SamplingParams(top_k=40),
        SamplingParams(top_k=5, top_p=0.5),
        SamplingParams(top_k=500),
        GREEDY.replace(presence_penalty=1.0),
        SamplingParams(top_k=1),
    ]
    for row, each in enumerate(params):
        target.start(start(row, each))
    sample(target, torch.randn(8, 2000), list(range(8)), [1] * 8)
    assert spy.calls == [
        ("apply_penalties", 1),
        ("best_token", 8),
        ("sample_full", 1),
        ("sample_full", 1),
        ("sample_top_k", 2),
        ("sample_top_k", 1),
    ]


class ShapesDevice(HostDevice):
    """A device whose tensors have shapes but no values: reading one, or a shape that depends on one, is an error."""

    torch_device = torch.device("meta")

    def to_host(self, tensor: torch.Tensor) -> Any:
        return tensor


def test_the_host_never_asks_what_the_device_computed() -> None:
    target = Sampler(16, 9000, ShapesDevice(), OpTable())  # type: ignore[arg-type]
    everything = SamplingParams(
        presence_penalty=1.0,
        logit_bias={3: 1.0},
        allowed_token_ids=[1, 2, 3],
        bad_words_token_ids=[[1], [2, 3]],
        min_tokens=4,
        logprobs=5,
        min_p=0.1,
        top_p=0.9,
    )
    params = [
        everything,
        everything.replace(top_k=20, logprobs=-1),
        everything.replace(top_k=500, logprob_token_ids=[4]),
        everything.replace(temperature=0.0),
        SamplingParams(),
    ]
    logits = torch.empty(5, 9000, device="meta")
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        logits[0, 0].item()
    for row, each in enumerate(params):
        target.start(start(row, each, [1, 2], [3, 4, 5], eos=(7,)))
    for step in range(2):
        result = target.sample(logits, np.arange(5, dtype=np.int32), np.full(5, 5 + step, np.int32))
        assert result.tokens.device.type == result.best.device.type == "meta"
    assert len(result.copies) == 3


def test_equal_logits_resolve_to_the_lowest_id_in_every_batch() -> None:
    logits = torch.zeros(5, VOCAB)
    logits[:, [40, 70]] = 3.0
    target = sampler(VOCAB)
    for row, params in enumerate([GREEDY, SamplingParams(top_k=1), GREEDY, SamplingParams(), GREEDY]):
        target.start(start(row, params))
    tokens = sample(target, logits, [0, 1, 2, 3, 4], [1] * 5).tokens.tolist()
    assert [tokens[i] for i in (0, 1, 2, 4)] == [40] * 4


@pytest.mark.parametrize(
    "limits", [{"temperature": 0.7}, {"top_k": 6}, {"top_p": 0.8, "temperature": 1.4}, {"min_p": 0.08}], ids=str
)
def test_many_seeds_follow_the_distribution(limits: dict[str, float]) -> None:
    logits = torch.randn(30, generator=torch.Generator().manual_seed(1)) * 1.5
    exact = probabilities(logits, **limits)
    target, n = sampler(30, max_rows=200), 200
    for row in range(n):
        target.start(start(row, SamplingParams(seed=row, **limits)))  # type: ignore[arg-type]
    drawn = [sample(target, logits.expand(n, -1), list(range(n)), [length] * n).tokens for length in range(1, 51)]
    counts = np.bincount(torch.cat(drawn).numpy(), minlength=30)
    expected = exact * n * 50
    assert not counts[exact == 0].any()
    busy = expected >= 5
    statistic = ((counts - expected)[busy] ** 2 / expected[busy]).sum()
    # For up to 29 degrees of freedom 99.9 % of draws lie below 58.3.
    assert statistic < 58.3


def test_seeds_reproduce_and_differ() -> None:
    logits = torch.zeros(VOCAB)
    first = [one(SamplingParams(seed=seed), logits) for seed in range(-5, 20)]
    assert first == [one(SamplingParams(seed=seed), logits) for seed in range(-5, 20)]
    assert len(set(first)) > 15


def test_temperatures_under_the_bound_are_greedy() -> None:
    logits = torch.tensor([1.0, 1.0, 0.0])
    assert {one(SamplingParams(temperature=9e-6, seed=seed), logits) for seed in range(20)} == {0}
    assert {one(SamplingParams(temperature=1.1e-5, seed=seed), logits) for seed in range(20)} == {0, 1}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_rows_without_a_finite_best_logit_are_told_apart(temperature: float) -> None:
    target = sampler(VOCAB)
    for row in range(4):
        allowed = [5] if row == 3 else None
        bad = [[5]] if row == 3 else None
        params = SamplingParams(temperature=temperature, allowed_token_ids=allowed, bad_words_token_ids=bad)
        target.start(start(row, params))
    logits = torch.randn(4, VOCAB, generator=torch.Generator().manual_seed(2))
    alone = sample(target, logits, [0], [1]).tokens
    logits[1, 60], logits[2, 7] = torch.nan, torch.inf
    result = sample(target, logits, [0, 1, 2, 3], [1] * 4)
    assert torch.isfinite(result.best).tolist() == [True, False, False, False]
    assert result.tokens[0] == alone[0]
    # Callers may look at the logit of the token instead.
    assert result.tokens[1:3].tolist() == [60, 7]
    assert 0 <= int(result.tokens[3]) < VOCAB


def test_a_batch_is_prepared_again_when_a_row_changes_hands() -> None:
    target = sampler(VOCAB)
    logits = torch.randn(1, VOCAB)
    best = int(logits.argmax())
    target.start(start(0, GREEDY))
    assert sample(target, logits, [0], [1]).tokens.tolist() == [best]
    target.stop(0)
    target.start(start(0, GREEDY.replace(bad_words_token_ids=[[best]])))
    assert sample(target, logits, [0], [1]).tokens.tolist() == logits.topk(2).indices[:, 1].tolist()


def test_no_rows_are_no_tokens() -> None:
    target = sampler(VOCAB)
    result = sample(target, torch.empty(0, VOCAB), [], [])
    assert result.tokens.shape == (0,)
    assert result.logprobs() == {}
