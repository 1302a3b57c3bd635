"""Outputs do not depend on how the engine is set up or on what else runs."""

from __future__ import annotations

import dataclasses
import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hardpoint.contract.limits import BatchLimits
from hardpoint.params import SamplingParams
from hardpoint.testing.scheduling import Driver, Setup
from null.strategies import prompts

requests = st.lists(
    st.tuples(prompts, st.integers(1, 16), st.sampled_from([0.0, 1.0]), st.sampled_from([1, 1, 3])),
    min_size=1,
    max_size=6,
)


def outputs(setup: Setup, loads, *, apart: int = 0) -> list[list[int]]:
    """Return the tokens of every sequence, with ``apart`` steps between arrivals."""
    driver = Driver(setup)
    for seed, (prompt, max_tokens, temperature, n) in enumerate(loads):
        driver.add(prompt, SamplingParams(max_tokens=max_tokens, temperature=temperature, n=n, seed=100 * seed))
        for _ in range(apart):
            driver.advance()
    driver.run()
    driver.verify()
    driver.scheduler.assert_idle()
    return [told.tokens for _handle, told in sorted(driver.told.items())]


@settings(max_examples=40, deadline=None)
@given(
    loads=requests,
    block_size=st.sampled_from([1, 2, 4, 16]),
    tokens=st.integers(1, 48),
    rows=st.integers(1, 8),
    caching=st.booleans(),
    depth=st.integers(1, 2),
    apart=st.integers(0, 5),
    tight=st.booleans(),
    windows=st.sampled_from([(None,), (6,), (None, 3)]),
)
def test_outputs_do_not_depend_on_the_engine(loads, block_size, tokens, rows, caching, depth, apart, tight, windows):
    plain = Setup(windows=windows, block_size=4, num_blocks=500, caching=False)
    varied = dataclasses.replace(
        plain,
        block_size=block_size,
        # Just enough for the longest sequence where it is tight: 25 prompt and 16 further tokens in each group.
        num_blocks=(41 // block_size + 2) * len(windows) + 2 if tight else 2000,
        limits=BatchLimits(max_tokens=tokens, max_requests=rows),
        caching=caching,
        depth=depth,
    )
    assert outputs(varied, loads, apart=apart) == outputs(plain, loads)


@pytest.mark.parametrize(("depth", "block_size", "caching"), list(itertools.product((1, 2), (1, 4), (False, True))))
@pytest.mark.parametrize("windows", [(None,), (None, 5)])
def test_outputs_survive_many_preemptions(depth, block_size, caching, windows):
    """Sequences that together need three times the pool preempt each other all the time."""
    generator = random.Random(5)
    setup = Setup(
        windows=windows,
        depth=depth,
        block_size=block_size,
        caching=caching,
        num_blocks=(40 // block_size + 2) * len(windows) + 1,
        limits=BatchLimits(max_tokens=24, max_requests=8),
    )
    driver = Driver(setup)
    for seed in range(24):
        prompt = [generator.randrange(24) for _ in range(generator.randrange(1, 5))]
        driver.add(prompt, SamplingParams(max_tokens=35, temperature=1.0, seed=seed, ignore_eos=bool(seed % 3)))
        if seed % 4 == 3:
            driver.advance()
    driver.run()
    driver.verify()
    driver.scheduler.assert_idle()
    stats = driver.scheduler.stats()
    assert stats.preemptions >= 10
    # A token that was in flight when its sequence was preempted counts: only those after an end are dropped.
    ended = sum(told.finish.reason == "stop" for told in driver.told.values())
    assert sum(int(plan.samples.sum()) for plan in driver.plans) - stats.generation_tokens <= ended
