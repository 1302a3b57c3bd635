"""Any sequence of events leaves every output right and nothing behind."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from hardpoint.contract.errors import RequestError
from hardpoint.params import SamplingParams
from hardpoint.testing.scheduling import Driver, Setup
from null.strategies import VOCAB_SIZE, prompts, setups


class EngineMachine(RuleBasedStateMachine):
    """Adds, steps, aborts, fails and drafts at random; the null device and the null model judge."""

    driver: Driver

    @initialize(setup=setups())
    def begin(self, setup: Setup) -> None:
        self.driver = Driver(setup)

    @rule(
        prompt=prompts,
        max_tokens=st.integers(1, 20),
        n=st.sampled_from([1, 1, 1, 2, 4]),
        temperature=st.sampled_from([0.0, 1.0]),
        min_tokens=st.sampled_from([0, 0, 3]),
        stop=st.sampled_from([(), (5, 9)]),
        priority=st.integers(0, 2),
        extra=st.sampled_from([{}, {}, {"adapter": "a"}, {"cache_salt": "s"}]),
        logprobs=st.sampled_from([None, None, 2]),
        prompt_logprobs=st.sampled_from([None, None, 1]),
    )
    def add(self, prompt, max_tokens, n, temperature, min_tokens, stop, priority, extra, logprobs, prompt_logprobs):
        params = SamplingParams(
            n=n,
            max_tokens=max_tokens,
            min_tokens=min(min_tokens, max_tokens),
            temperature=temperature,
            seed=7 * len(self.driver.told),
            stop_token_ids=stop,
            logprobs=logprobs,
            prompt_logprobs=prompt_logprobs,
        )
        # Too long for the engine, too many blocks: refused alone, which its own tests look at.
        with contextlib.suppress(RequestError):
            self.driver.add(prompt, params, priority=priority, **extra)

    @rule(count=st.integers(1, 6))
    def step(self, count: int) -> None:
        for _ in range(count):
            self.driver.advance()

    @rule()
    def step_once(self) -> None:
        self.driver.advance()

    @precondition(lambda self: self.driver.told)
    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        handles = data.draw(st.lists(st.sampled_from(sorted(self.driver.told)), min_size=1, max_size=3))
        self.driver.scheduler.abort(handles)

    @precondition(lambda self: self.driver.told)
    @rule(what=st.sampled_from(["row", "row", "step", "reset"]), data=st.data())
    def disturb(self, what: str, data: st.DataObject) -> None:
        if what == "row":
            handle = data.draw(st.sampled_from(sorted(self.driver.told)))
            self.driver.executor.fail_handles[handle] = "not a number"
        elif what == "step":
            self.driver.executor.fail_step = len(self.driver.plans) + data.draw(st.integers(0, 3))
        else:
            self.driver.scheduler.reset_prefix_cache()

    @precondition(lambda self: self.driver.setup.limits.sampled_per_step > 1 and not self.driver.setup.multi_step)
    @rule(right=st.integers(0, 4), wrong=st.integers(0, 2))
    def propose(self, right: int, wrong: int) -> None:
        for handle, told in self.driver.told.items():
            if told.finish is None:
                ahead = self.driver.expected(told).tokens[len(told.tokens) :]
                self.driver.scheduler.propose(handle, [*ahead[:right], *[VOCAB_SIZE - 1] * wrong])

    @invariant()
    def consistent(self) -> None:
        if hasattr(self, "driver"):
            self.driver.scheduler.check()

    def teardown(self) -> None:
        if hasattr(self, "driver") and self.driver.sound:
            self.driver.executor.fail_step = None
            self.driver.run()
            self.driver.verify()
            self.driver.scheduler.assert_idle()


quick = settings(max_examples=250, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck))
TestEngineMachine = EngineMachine.TestCase
TestEngineMachine.settings = quick


@pytest.mark.slow
class TestEngineMachineLonger(EngineMachine.TestCase):  # type: ignore[misc]
    """The same with more events."""

    settings = settings(quick, max_examples=1500, stateful_step_count=60)
