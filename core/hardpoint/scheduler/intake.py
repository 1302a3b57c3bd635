"""From a request to sequences: what can never run is refused here, with numbers."""

from __future__ import annotations

import random
from typing import Final

from hardpoint.contract.errors import RequestError
from hardpoint.contract.policy import RequestView, SchedulingPolicy
from hardpoint.engine.messages import EngineRequest
from hardpoint.scheduler.budget import StepBudget
from hardpoint.scheduler.running import RunningSet
from hardpoint.scheduler.sequence import Family, Sequence, State

_SEEDS: Final = 2**64


class Intake:
    """Checks requests and makes their sequences.

    Args:
        running, budget: what a sequence must fit.
        policy: gives keys.
        max_model_len: longest sequence in tokens.
        vocab_size: ids are below this.
        chunked: whether prompts may be spread over steps.
        seed: of the generator that gives seeds to requests without one.
    """

    def __init__(
        self,
        running: RunningSet,
        budget: StepBudget,
        policy: SchedulingPolicy,
        *,
        max_model_len: int,
        vocab_size: int,
        chunked: bool,
        seed: int,
    ) -> None:
        self._running = running
        self._budget = budget
        self._policy = policy
        self._max_model_len = max_model_len
        self._vocab_size = vocab_size
        self._chunked = chunked
        self._seeds = random.Random(seed)
        self._order = 0

    def sequences(self, request: EngineRequest) -> list[Sequence]:
        """Return the request's sequences, the one that computes the prompt first.

        Raises:
            RequestError: when the request is invalid or could never run to its end.
        """
        params = request.params
        limit = self._limit(request)
        self._check(request, limit)
        seed = params.seed if params.seed is not None else self._seeds.getrandbits(63)
        view = RequestView(
            request_id=request.request_id,
            arrival=request.arrival,
            order=self._order,
            priority=request.priority,
            num_prompt=len(request.token_ids),
            max_tokens=limit - len(request.token_ids),
            tenant=request.tenant,
        )
        key = self._policy.key(view)
        # The first token of a prompt has no log-probability.
        wants_prompt = params.prompt_logprobs is not None and len(request.token_ids) > 1
        stops = (*request.eos_token_ids, *(params.stop_token_ids or ()))
        seeds = [(seed + index + _SEEDS // 2) % _SEEDS - _SEEDS // 2 for index in range(params.n)]
        sequences = [
            Sequence(
                handle=handle,
                request=request,
                params=params if params.seed == seeds[index] else params.replace(seed=seeds[index]),
                view=view,
                key=key,
                order=self._order + index,
                limit=limit,
                stops=stops,
                tokens=request.token_ids,
                num_prompt=len(request.token_ids),
                state=State.FORKING if index else State.WAITING,
                wants_prompt=index == 0 and wants_prompt,
            )
            for index, handle in enumerate(request.handles)
        ]
        self._order += len(sequences)
        if len(sequences) > 1:
            family = Family(leader=sequences[0], members=list(sequences), pending=len(sequences))
            for sequence in sequences:
                sequence.family = family
        return sequences

    def _limit(self, request: EngineRequest) -> int:
        tokens = request.params.max_tokens
        longest = self._max_model_len
        return longest if tokens is None else min(len(request.token_ids) + tokens, longest)

    def _check(self, request: EngineRequest, limit: int) -> None:
        name, prompt, params = request.request_id, len(request.token_ids), request.params
        if len(request.handles) != params.n:
            raise RequestError(
                f"request {name}: n is {params.n} and there are {len(request.handles)} handles", field="n"
            )
        if not prompt:
            raise RequestError(f"request {name}: the prompt is empty; it needs at least one token", field="prompt")
        if prompt >= self._max_model_len:
            raise RequestError(
                f"request {name}: the prompt has {prompt} tokens and max_model_len is {self._max_model_len}, prompt and "
                "output together; shorten the prompt or raise max_model_len",
                field="prompt",
            )
        outside = [token for token in params.stop_token_ids or () if not 0 <= token < self._vocab_size]
        if outside:
            raise RequestError(
                f"request {name}: stop_token_ids has {outside[0]}; ids are from 0 to {self._vocab_size - 1}",
                field="stop_token_ids",
            )
        self._check_step(name, prompt, limit)
        self._check_blocks(name, prompt, limit)

    def _check_step(self, name: str, prompt: int, limit: int) -> None:
        budget = self._budget
        area = budget.limits.token_area
        if area is not None and limit - 1 > area:
            raise RequestError(
                f"request {name}: {prompt} prompt tokens with max_tokens={limit - prompt} make a context of {limit - 1} "
                f"tokens; the platform takes {area} in one step; lower max_tokens",
                field="max_tokens",
            )
        # A preempted sequence computes its sampled tokens again, so that the whole of it must fit one step.
        if not self._chunked and limit - 1 > budget.max_chunk:
            raise RequestError(
                f"request {name}: {prompt} prompt tokens with max_tokens={limit - prompt} may need {limit - 1} tokens in "
                f"one step, which holds {budget.max_chunk}; enable chunked prefill, raise max_num_batched_tokens or lower "
                "max_tokens",
                field="max_tokens",
            )

    def _check_blocks(self, name: str, prompt: int, limit: int) -> None:
        tables, pool = self._running.tables, self._running.pool
        chunk = self._budget.limits.chunk_multiple if self._chunked else limit - 1
        needed = tables.peak_blocks(limit - 1 + self._running.lookahead, chunk + self._running.lookahead)
        if needed > pool.usable:
            raise RequestError(
                f"request {name}: {prompt} prompt tokens with max_tokens={limit - prompt} need {needed} cache blocks of "
                f"{tables.block_size} tokens and the cache has {pool.usable}; lower max_tokens, shorten the prompt or "
                "raise kv_cache_memory",
                field="max_tokens",
            )
