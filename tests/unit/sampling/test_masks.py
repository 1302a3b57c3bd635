"""Allowed ids, bad words, min tokens, logit bias, penalties, and the order among them."""

from __future__ import annotations

import itertools

import pytest
import torch
from transformers.generation import RepetitionPenaltyLogitsProcessor

from hardpoint.ops import OpTable
from hardpoint.params import SamplingParams
from hardpoint.runner.sampling.penalties import Penalties
from hardpoint.runner.sampling.rows import Rows
from hardpoint.runner.sampling.transfer import Uploads
from unit.sampling.bench import HostDevice, one, sample, sampler, start

GREEDY = SamplingParams(temperature=0.0, max_tokens=100)


def ascending(vocab: int) -> torch.Tensor:
    """Return logits whose best token is the last one."""
    return torch.arange(vocab, dtype=torch.float32)


def run(params: SamplingParams, steps: int, vocab: int = 10, **kw: object) -> list[int]:
    """Return the tokens of a row that sees the same ascending logits in every step, beside a plain row."""
    target = sampler(vocab)
    begin = start(4, params, **kw)  # type: ignore[arg-type]
    target.start(start(1, GREEDY))
    target.start(begin)
    length = len(begin.token_ids)
    tokens = []
    for step in range(steps):
        both = sample(target, ascending(vocab).expand(2, -1), [1, 4], [step + 1, length + step]).tokens.tolist()
        assert both[0] == vocab - 1
        tokens.append(both[1])
    return tokens


def test_only_allowed_ids_are_sampled() -> None:
    assert run(GREEDY.replace(allowed_token_ids=[3, 1, 2, 1]), 2) == [3, 3]
    params = SamplingParams(allowed_token_ids=[3, 1], temperature=50.0)
    assert {one(params.replace(seed=seed), ascending(10)) for seed in range(30)} == {1, 3}


def test_a_bias_moves_one_token_and_cannot_lift_a_forbidden_one() -> None:
    assert run(GREEDY.replace(logit_bias={2: 7.5, 3: 6.5, 9: -0.25}), 1) == [2]
    assert run(GREEDY.replace(logit_bias={2: 100.0}, allowed_token_ids=[1, 5]), 1) == [5]
    assert run(GREEDY.replace(logit_bias={2: 100.0}, bad_words_token_ids=[[2]]), 1) == [9]


def test_end_and_stop_tokens_wait_for_min_tokens() -> None:
    params = GREEDY.replace(min_tokens=3, stop_token_ids=[8])
    assert run(params, 5, eos=(9,)) == [7, 7, 7, 9, 9]
    # Tokens sampled before a preemption count, the prompt does not.
    assert run(params, 3, eos=(9,), prompt=[1, 2, 3, 4], output=[7]) == [7, 7, 9]
    assert run(params.replace(min_tokens=0), 1, eos=(9,)) == [9]
    assert run(GREEDY.replace(min_tokens=2), 2) == [9, 9]


def test_bad_words_of_any_length_never_appear() -> None:
    assert run(GREEDY.replace(bad_words_token_ids=[[9]]), 3) == [8, 8, 8]
    assert run(GREEDY.replace(bad_words_token_ids=[[9, 9]]), 5) == [9, 8, 9, 8, 9]
    assert run(GREEDY.replace(bad_words_token_ids=[[9, 9, 9]]), 6) == [9, 9, 8, 9, 9, 8]
    assert run(GREEDY.replace(bad_words_token_ids=[[9, 9], [9, 8], [9, 9, 9]]), 4) == [9, 7, 9, 7]
    # Two words of one last token: one that has begun is enough.
    assert run(GREEDY.replace(bad_words_token_ids=[[1, 9], [9, 9], [2, 2, 9]]), 4) == [9, 8, 9, 8]


def test_a_bad_word_that_begins_in_the_prompt_is_not_one() -> None:
    params = GREEDY.replace(bad_words_token_ids=[[9, 9]])
    assert run(params, 3, prompt=[9, 9]) == [9, 8, 9]
    assert run(params, 3, prompt=[9], output=[9]) == [8, 9, 8]


def test_rows_with_words_of_other_lengths_come_and_go() -> None:
    target = sampler(10)
    words = {0: [[9, 9]], 1: [[9, 9, 9]], 2: [[9, 9, 9, 9]], 3: [[9], [8, 8, 8]], 4: [[9, 8, 9]], 5: [[9, 9]]}
    expected = {0: [9, 8] * 4, 1: [9, 9, 8] * 3, 2: [9, 9, 9, 8] * 2, 3: [8, 8, 7] * 3, 4: [9] * 8, 5: [9, 8] * 4}
    got: dict[int, list[int]] = {row: [] for row in words}
    for step in range(8):
        if step < 6:
            target.start(start(step, GREEDY.replace(bad_words_token_ids=words[step])))
        rows = list(range(min(step + 1, 6)))[::-1]
        lengths = [1 + len(got[row]) for row in rows]
        for row, token in zip(
            rows, sample(target, ascending(10).expand(len(rows), -1), rows, lengths).tokens, strict=True
        ):
            got[row].append(int(token))
    for row, tokens in got.items():
        assert tokens == expected[row][: len(tokens)]


@pytest.mark.parametrize("penalties", list(itertools.product([0.0, 0.6, -1.0], [0.0, 0.3, -0.7], [1.0, 1.4, 0.7])))
def test_penalties_follow_their_formula(penalties: tuple[float, float, float]) -> None:
    presence, frequency, repetition = penalties
    params = GREEDY.replace(presence_penalty=presence, frequency_penalty=frequency, repetition_penalty=repetition)
    vocab, prompt = 12, [1, 2, 2, 3]
    logits = torch.randn(vocab, generator=torch.Generator().manual_seed(5))
    target = sampler(vocab)
    target.start(start(2, params, prompt))
    output: list[int] = []
    for _ in range(15):
        expected = []
        for token in range(vocab):
            value = float(logits[token])
            if token in prompt or token in output:
                value = value / repetition if value > 0 else value * repetition
            value -= frequency * output.count(token)
            expected.append(value - presence * (token in output))
        result = sample(target, logits[None], [2], [len(prompt) + len(output)])
        token = int(result.tokens[0])
        assert expected[token] == pytest.approx(max(expected), abs=1e-5)
        assert float(result.best[0]) == pytest.approx(max(expected), abs=1e-5)
        output.append(token)


def test_repetition_penalty_is_that_of_transformers() -> None:
    known = [3, 3, 5, 0, 19]
    logits = torch.randn(1, 20, generator=torch.Generator().manual_seed(8))
    upload = Uploads(HostDevice())  # type: ignore[arg-type]
    rows, table = Rows(4, 20), Penalties(20, torch.device("cpu"), upload, OpTable())
    begin = start(1, GREEDY.replace(repetition_penalty=1.7), known[:2], known[2:])
    rows.start(begin)
    table.start(begin)
    group = table.group(rows, begin.token_ids[:1] * 0 + 1)
    assert group is not None
    expected = RepetitionPenaltyLogitsProcessor(1.7)(torch.tensor([known]), logits.clone())
    table.apply(logits, group)
    assert torch.equal(logits, expected)


def test_penalty_tables_grow_with_their_rows_and_go_with_the_last() -> None:
    target = sampler(50, max_rows=40)
    tables = target._penalties
    params = GREEDY.replace(presence_penalty=2.0)
    for row in range(40):
        target.start(start(row, params if row % 2 else GREEDY, [row]))
        assert tables.capacity <= max(4, 2 * (row // 2 + 1))
    logits = torch.zeros(40, 50)
    # Every penalized row moves on to the next token; the tables grew while rows held counts.
    for step in range(3):
        tokens = sample(target, logits, list(range(40)), [step + 1] * 40).tokens.tolist()
        assert tokens == [step if row % 2 else 0 for row in range(40)]
    for row in range(39):
        target.stop(row)
    assert tables.capacity > 0
    assert sample(target, logits[:1], [39], [4]).tokens.tolist() == [3]
    target.stop(39)
    assert tables.capacity == 0
    # A slot that is taken again remembers nothing.
    target.start(start(7, params, [0]))
    assert sample(target, logits[:1], [7], [1]).tokens.tolist() == [0]


def test_the_order_is_masks_then_bias_then_penalties_then_temperature() -> None:
    # Penalties see the biased logit: 4 + 4 is halved to 4; before the bias it would be 2 + 4.
    params = GREEDY.replace(logit_bias={0: 4.0}, repetition_penalty=2.0)
    assert one(params, [4.0, 5.0], prompt=[0]) == 1
    assert one(params, [4.0, 3.0], prompt=[0]) == 0
    # Min-p sees the distribution after temperature: at 4 the second token has a quarter root of its ratio.
    hot = SamplingParams(temperature=4.0, min_p=0.5)
    assert {one(hot.replace(seed=s), [2.0, 0.0]) for s in range(40)} == {0, 1}
    assert {one(hot.replace(seed=s, temperature=1.0), [2.0, 0.0]) for s in range(40)} == {0}
    # Top-p sees what top-k left: of the two best tokens the first has more than 60 %.
    both = SamplingParams(top_k=2, top_p=0.6)
    assert {one(both.replace(seed=s), [1.0, 0.5, 0.4, 0.4]) for s in range(40)} == {0}
    assert {one(both.replace(seed=s, top_k=0), [1.0, 0.5, 0.4, 0.4]) for s in range(40)} > {0}
