"""A step in parts computes what the whole step computes, in an order in which every row finds what it reads."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardpoint.contract.step import StepPlan, StepResult, TokenLogprobs
from hardpoint.runner.splitting import Part, join, split, whole

CHUNKS = st.lists(st.tuples(st.integers(1, 40), st.integers(0, 60), st.booleans()), min_size=1, max_size=12)


def plan_of(decodes: int, chunks: list[tuple[int, int, bool]]) -> StepPlan:
    """Return a step with ``decodes`` rows of one token and chunks of (tokens, computed, samples)."""
    every = [(1, 5 * i, True) for i in range(decodes)] + chunks
    return StepPlan(
        step=3,
        rows=np.arange(len(every), dtype=np.int32)[::-1].copy(),
        num_tokens=np.array([count for count, _, _ in every], np.int32),
        num_computed=np.array([computed for _, computed, _ in every], np.int32),
        samples=np.array([samples for *_, samples in every]),
        num_decodes=decodes,
    )


@given(st.integers(0, 6), CHUNKS, st.integers(1, 50), st.integers(1, 20))
def test_parts_are_the_whole(decodes: int, chunks: list[tuple[int, int, bool]], most: int, again: int) -> None:
    plan = plan_of(decodes, chunks)
    parts = [smaller for part in split(whole(plan), most) for smaller in split(part, min(again, most))]
    position = plan.num_computed.copy()
    begins: list[int] = []
    for part in parts:
        own = part.plan
        assert 0 < own.total_tokens <= most
        assert own.rows.tolist() == plan.rows[part.at].tolist()
        assert own.num_decodes == int((part.at < decodes).sum())
        assert sorted(part.at < decodes, reverse=True) == (part.at < decodes).tolist()
        assert len(set(part.at.tolist())) == len(part.at)
        assert own.num_computed.tolist() == position[part.at].tolist()
        position[part.at] += own.num_tokens
        ends = position[part.at] == (plan.num_computed + plan.num_tokens)[part.at]
        assert own.samples.tolist() == (plan.samples[part.at] & ends).tolist()
    assert position.tolist() == (plan.num_computed + plan.num_tokens).tolist()
    # What begins at an earlier position is computed no later: a row may read what another one writes there.
    for part in split(whole(plan), most):
        earliest = int(part.plan.num_computed.min())
        assert all(begin <= earliest for begin in begins)
        begins.append(int(part.plan.num_computed.max()))


def result_of(part: Part) -> StepResult:
    """Return what a device would that samples ten times the row and tells each prompt token's position."""
    own = part.plan
    tokens = np.where(own.samples, own.rows * 10, 0).astype(np.int32)[:, None]
    prompts = {}
    for at in range(len(own.rows)):
        ids = np.arange(own.num_tokens[at], dtype=np.int32) + own.num_computed[at]
        prompts[at] = TokenLogprobs(token_ids=ids[:, None], values=-ids[:, None].astype(np.float32), ranks=ids + 1)
    return StepResult(step=own.step, tokens=tokens, counts=own.samples.astype(np.int32), prompt_logprobs=prompts)


@given(st.integers(0, 6), CHUNKS, st.integers(1, 50))
def test_results_of_parts_are_the_result_of_the_whole(
    decodes: int, chunks: list[tuple[int, int, bool]], most: int
) -> None:
    plan = plan_of(decodes, chunks)
    expected = result_of(whole(plan))
    found = join(plan, [(part, result_of(part)) for part in split(whole(plan), most)], {})
    assert found.step == 3
    assert found.tokens.tolist() == expected.tokens.tolist()
    assert found.counts.tolist() == expected.counts.tolist()
    assert set(found.prompt_logprobs) == set(expected.prompt_logprobs)
    for at, told in expected.prompt_logprobs.items():
        assert found.prompt_logprobs[at].ranks.tolist() == told.ranks.tolist()


def test_a_row_that_failed_gives_no_token() -> None:
    plan = plan_of(2, [(3, 0, True)])
    part = whole(plan)
    found = join(plan, [(part, result_of(part))], {1: "too long"})
    assert found.failures == {1: "too long"}
    assert found.counts.tolist() == [1, 0, 1]
    assert part.without({1}) is not None
    assert part.without({1}).at.tolist() == [0, 2]  # type: ignore[union-attr]
    assert part.without({0, 1, 2}) is None


def test_parts_hold_at_least_a_token() -> None:
    with pytest.raises(ValueError, match="parts of 0 tokens"):
        split(whole(plan_of(1, [])), 0)
