"""What the scheduler knows about one sequence, and about sequences that share a prompt."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from hardpoint.contract.step import Int32s, TokenLogprobs

if TYPE_CHECKING:
    from hardpoint.blocks import PrefixChain
    from hardpoint.contract.policy import RequestView, SortKey
    from hardpoint.engine.messages import EngineRequest
    from hardpoint.params import SamplingParams


class State(Enum):
    """Where a sequence is in its life.

    ``SETTLING`` is preempted with steps in flight: it waits for their tokens before it queues again. ``FORKING`` waits
    for the first sequence of its request to compute the prompt.
    """

    WAITING = "waiting"
    FORKING = "forking"
    RUNNING = "running"
    SETTLING = "settling"
    FINISHED = "finished"


@dataclass(slots=True, eq=False)
class Family:
    """The sequences of a request with ``n > 1``, which compute their prompt once.

    Attributes:
        leader: the sequence that computes the prompt.
        members: sequences that have not ended.
        pending: how many of them never took a row.
        computed: whether the whole prompt was scheduled.
        blocks: per group the blocks of the prompt, held here for those that have not started; empty before the prompt is
            computed and once nobody needs them.
        chain: digests of the prompt's full blocks, where prefixes are cached.
    """

    leader: Sequence
    members: list[Sequence]
    pending: int
    computed: bool = False
    blocks: tuple[Int32s, ...] = ()
    chain: PrefixChain | None = None


@dataclass(slots=True, eq=False)
class Sequence:
    """One sequence from ``add`` to its end.

    Attributes:
        handle: the client's number for it.
        request: what was asked.
        params: how to sample, with its seed.
        view, key, order: what the policy saw, its answer, and the tie-break.
        limit: tokens, prompt included, at which it ends.
        stops: ids that end it, end tokens included.
        tokens: int32[n], all tokens known when it last joined the queue (while it runs, newer ones are with its row).
        num_prompt: length of the prompt.
        state, row: where it is; ``row`` is -1 unless it runs.
        family: its siblings when ``n > 1``.
        chain: digests of its full blocks, made when prefix caching first asks.
        grown: int32 bytes of the blocks that filled since it took its row.
        registered: columns whose blocks were offered to the prefix cache since it took its row.
        prompt_parts: log-probabilities of the prompt so far; ``wants_prompt`` until they are complete.
        started: whether it ever took a row.
        settling: steps in flight at its preemption that are not consumed yet.
    """

    handle: int
    request: EngineRequest
    params: SamplingParams
    view: RequestView
    key: SortKey
    order: int
    limit: int
    stops: tuple[int, ...]
    tokens: Int32s
    num_prompt: int
    state: State = State.WAITING
    row: int = -1
    family: Family | None = None
    chain: PrefixChain | None = None
    grown: bytearray = field(default_factory=bytearray)
    registered: int = 0
    prompt_parts: list[TokenLogprobs] = field(default_factory=list)
    wants_prompt: bool = False
    started: bool = False
    settling: int = 0

    @property
    def rank(self) -> tuple[SortKey, int]:
        """Its place in the policy's order; smaller runs first."""
        return self.key, self.order

    def stopped_by(self, token: int, generated: int) -> bool:
        """Whether ``token``, the ``generated``-th one, ends the sequence."""
        return generated >= self.params.min_tokens and token in self.stops
