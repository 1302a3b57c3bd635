"""Runs the scheduler against the null device, checks every plan, and compares every sequence with the null model."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hardpoint.config import EngineConfig
from hardpoint.contract.kv import KVGroup, KVPlan
from hardpoint.contract.limits import BatchLimits
from hardpoint.contract.policy import SchedulingPolicy
from hardpoint.contract.step import StepPlan
from hardpoint.engine.messages import EngineOutputs, EngineRequest, Finish, Logprobs
from hardpoint.params import SamplingParams
from hardpoint.scheduler import Scheduler
from hardpoint.scheduler.policies import FirstComeFirstServed, Priority
from hardpoint.testing.null import NullExecutor, NullPending, NullStepError
from hardpoint.testing.null_model import Generation, NullModel

EOS = (0,)


@dataclass(frozen=True, kw_only=True)
class Setup:
    """One engine."""

    block_size: int = 4
    num_blocks: int = 64
    windows: tuple[int | None, ...] = (None,)
    limits: BatchLimits = field(default_factory=lambda: BatchLimits(max_tokens=32, max_requests=8))
    max_model_len: int = 64
    depth: int = 1
    caching: bool = True
    chunked: bool = True
    threshold: int = 0
    policy: str = "fcfs"
    multi_step: bool = False
    vocab_size: int = 24
    max_waiting: int | None = None
    max_num_seqs: int = 256


@dataclass
class Told:
    """What the client heard of one sequence."""

    request: EngineRequest
    index: int
    tokens: list[int] = field(default_factory=list)
    finish: Finish | None = None
    logprobs: list[Logprobs] = field(default_factory=list)
    prompt_logprobs: Logprobs | None = None
    cached: list[int] = field(default_factory=list)


class Driver:
    """A scheduler, a null device, and what clients heard.

    Args:
        setup: the engine.
        policy: orders the queue, in place of what ``setup`` names.
    """

    def __init__(self, setup: Setup, policy: SchedulingPolicy | None = None) -> None:
        self.setup = setup
        self.model = NullModel(setup.vocab_size, setup.windows)
        config = EngineConfig.of(
            enable_prefix_caching=setup.caching,
            enable_chunked_prefill=setup.chunked,
            long_prefill_token_threshold=setup.threshold,
            max_waiting=setup.max_waiting,
            max_num_seqs=setup.max_num_seqs,
        )
        groups = tuple(KVGroup(window=window, layers=(i,)) for i, window in enumerate(setup.windows))
        kv = KVPlan(block_size=setup.block_size, num_blocks=setup.num_blocks, groups=groups)
        if policy is None:
            policy = Priority() if setup.policy == "priority" else FirstComeFirstServed()
        self.scheduler = Scheduler(config, setup.limits, kv, setup.max_model_len, setup.vocab_size, policy)
        self.executor = NullExecutor(
            self.model,
            block_size=setup.block_size,
            num_blocks=setup.num_blocks,
            num_rows=setup.limits.max_requests,
            sampled_per_step=setup.limits.sampled_per_step,
            multi_step=setup.multi_step,
            max_model_len=setup.max_model_len,
        )
        self.executor.start(kv)
        self.told: dict[int, Told] = {}
        self.in_flight: deque[tuple[StepPlan, NullPending]] = deque()
        self.plans: list[StepPlan] = []
        self.prefilled = False
        #: Whether no check failed yet.
        self.sound = True
        self._known: dict[int, int] = {}
        self._handle = 0

    def add(self, prompt: list[int] | np.ndarray, params: SamplingParams, **fields: Any) -> tuple[int, ...]:
        """Add a request and return its handles."""
        handles = tuple(range(self._handle, self._handle + params.n))
        fields.setdefault("eos_token_ids", () if params.ignore_eos else EOS)
        request = EngineRequest(
            request_id=f"r{self._handle}",
            handles=handles,
            token_ids=np.array(prompt, np.int32),
            params=params,
            **fields,
        )
        self.scheduler.add(request)
        self._handle += params.n
        for index, handle in enumerate(handles):
            self.told[handle] = Told(request, index)
        return handles

    def advance(self) -> EngineOutputs | None:
        """Do what the engine loop does once."""
        sound, self.sound = self.sound, False
        outputs = self._advance()
        self.sound = sound
        return outputs

    def _advance(self) -> EngineOutputs | None:
        while len(self.in_flight) < self.setup.depth:
            plan = self.scheduler.schedule()
            if plan is None:
                break
            check_limits(plan, self.setup.limits)
            self._check_turn(plan)
            self.plans.append(plan)
            self.in_flight.append((plan, self.executor.submit(plan)))
        if not self.in_flight:
            outputs = self.scheduler.take_outputs()
        else:
            plan, pending = self.in_flight.popleft()
            try:
                outputs = self.scheduler.update(plan, pending.result())
            except NullStepError as error:
                # Steps behind the failed one never ran on the device.
                self.in_flight.clear()
                self.executor.recover()
                self.scheduler.fail_all(str(error))
                outputs = self.scheduler.take_outputs()
        if outputs is not None:
            self.hear(outputs)
        return outputs

    def _check_turn(self, plan: StepPlan) -> None:
        """Check that a prefill step is not followed by another one with rows that could have decoded."""
        self._known |= {start.row: len(start.token_ids) for start in plan.starts}
        prefills = len(plan.rows) > plan.num_decodes
        sampled = plan.num_computed[: plan.num_decodes] >= [
            self._known[row] for row in plan.rows[: plan.num_decodes].tolist()
        ]
        assert not (self.setup.limits.decode_after_prefill and self.prefilled and prefills and sampled.any())
        self.prefilled = prefills

    def run(self, most: int = 5000) -> None:
        """Run until nothing is left."""
        for _ in range(most):
            if not self.scheduler.has_work:
                return
            if self.advance() is None and not self.in_flight:
                raise AssertionError("the scheduler has work and plans nothing")
        raise AssertionError(f"not done after {most} steps")

    def hear(self, outputs: EngineOutputs) -> None:
        """Note what outputs say; nothing may come after an end."""
        at = 0
        assert len(set(outputs.handles.tolist())) == len(outputs.handles)
        for handle, count in zip(outputs.handles.tolist(), outputs.counts.tolist(), strict=True):
            told = self.told[handle]
            assert told.finish is None, f"tokens after the end of {handle}"
            told.tokens += outputs.tokens[at : at + count].tolist()
            at += count
        assert at == len(outputs.tokens)
        for part in outputs.logprobs:
            self.told[part.handle].logprobs.append(part)
        for part in outputs.prompt_logprobs:
            assert self.told[part.handle].prompt_logprobs is None
            self.told[part.handle].prompt_logprobs = part
        for handle, cached in outputs.cached:
            self.told[handle].cached.append(cached)
        for finish in outputs.finished:
            assert self.told[finish.handle].finish is None, f"{finish.handle} ends twice"
            self.told[finish.handle].finish = finish

    def verify(self) -> None:
        """Compare every sequence with what the model gives for it alone; those cut short must be a prefix of it."""
        for handle, told in self.told.items():
            assert told.finish is not None, f"{handle} never ended"
            params = told.request.params
            if params.seed is None and not params.greedy:
                continue
            expected = self.expected(told)
            if told.finish.reason in ("abort", "error"):
                assert told.tokens == expected.tokens[: len(told.tokens)], f"{handle} differs"
            else:
                assert told.tokens == expected.tokens, f"{handle} differs"
                assert (told.finish.reason, told.finish.stop) == (expected.reason, expected.stop)
            assert len(told.cached) <= 1
            if params.logprobs is not None:
                chosen = [token for part in told.logprobs for token in part.token_ids[:, 0].tolist()]
                assert chosen == told.tokens
            if (
                params.prompt_logprobs is not None
                and told.index == 0
                and told.tokens
                and len(told.request.token_ids) > 1
            ):
                assert told.prompt_logprobs is not None
                assert told.prompt_logprobs.token_ids[:, 0].tolist() == told.request.token_ids[1:].tolist()

    def expected(self, told: Told) -> Generation:
        """Return what the model gives for a sequence alone."""
        params = told.request.params
        if params.seed is not None:
            params = params.replace(seed=params.seed + told.index)
        return self.model.generate(
            told.request.token_ids,
            params,
            eos=told.request.eos_token_ids,
            max_model_len=self.setup.max_model_len,
            adapter=told.request.adapter,
        )


def check_limits(plan: StepPlan, limits: BatchLimits) -> None:
    """Check that a plan keeps within its limits."""
    count, tokens = len(plan.rows), plan.total_tokens
    prefills = count - plan.num_decodes
    assert 0 < count <= limits.max_requests
    assert 0 < tokens <= limits.max_tokens
    assert limits.mix_prefill_decode or not (prefills and plan.num_decodes)
    assert limits.max_prefills is None or prefills <= limits.max_prefills
    assert limits.max_decodes is None or plan.num_decodes <= limits.max_decodes
    if limits.shapes:
        assert any(
            tokens <= shape.tokens and count <= shape.requests and (not shape.decode or not prefills)
            for shape in limits.shapes
        ), f"{count} rows with {tokens} tokens fit no shape"
    if limits.token_area is not None:
        longest = int((plan.num_computed + plan.num_tokens).max())
        assert longest * count <= limits.token_area
    for at in range(count):
        if not plan.samples[at]:
            assert plan.num_tokens[at] % limits.chunk_multiple == 0
