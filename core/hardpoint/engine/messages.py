"""What a client and an engine say to each other. Plain structs: a call in process, msgpack between processes."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from hardpoint.params import SamplingParams

FinishReason = Literal["stop", "length", "abort", "error"]


class EngineRequest(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """One request on its way to the scheduler, validated and tokenized.

    Attributes:
        request_id: the client's name for it, for logs.
        handles: one number per sequence (``params.n`` of them), never used before in this engine's life.
        token_ids: int32[prompt], at least one, every id inside the vocabulary.
        params: how to sample; ``max_tokens`` is set and ``n`` equals ``len(handles)``.
        eos_token_ids: ids that end a sequence; empty when ``params.ignore_eos``.
        arrival: seconds on the engine's monotonic clock (``time.monotonic``), set by the client.
        priority: smaller runs earlier under the priority policy.
        tenant: who pays, for fair policies.
        adapter: adapter's name, or ``None``.
        cache_salt: prompts share cached prefixes only with requests of the same salt.
    """

    request_id: str
    handles: tuple[int, ...]
    token_ids: npt.NDArray[np.int32]
    params: SamplingParams
    eos_token_ids: tuple[int, ...] = ()
    arrival: float = 0.0
    priority: int = 0
    tenant: str = ""
    adapter: str | None = None
    cache_salt: str | None = None


class Abort(msgspec.Struct, frozen=True, tag=True):
    """End these sequences now."""

    handles: list[int]


class ResetPrefixCache(msgspec.Struct, frozen=True, tag=True):
    """Forget cached prefixes; answered by :class:`PrefixCacheReset`."""


class StartProfile(msgspec.Struct, frozen=True, tag=True):
    """Begin to record what host and device do; answered by :class:`Profiled`."""


class StopProfile(msgspec.Struct, frozen=True, tag=True):
    """End it and write a Chrome trace to ``path``; answered by :class:`Profiled`."""

    path: str


class Shutdown(msgspec.Struct, frozen=True, tag=True):
    """End the engine process."""


class PrefixCacheReset(msgspec.Struct, frozen=True, tag=True):
    """Whether every cached prefix was forgotten."""

    complete: bool


class Profiled(msgspec.Struct, frozen=True, tag=True):
    """Recording began or ended; ``error`` says why not, where it did not."""

    error: str | None = None


class Finish(msgspec.Struct, frozen=True):
    """A sequence ended.

    Attributes:
        handle: the sequence.
        reason: why.
        stop: the stop token id that ended it, if one did and it is not the end token.
        error: what went wrong, for reason ``"error"``.
        error_type: name of the class in ``hardpoint.contract.errors`` that says it, e.g. ``"QueueFullError"``.
    """

    handle: int
    reason: FinishReason
    stop: int | None = None
    error: str | None = None
    error_type: str | None = None


class Logprobs(msgspec.Struct, frozen=True):
    """Log-probabilities of ``t`` tokens of one sequence; see :class:`hardpoint.contract.step.TokenLogprobs`."""

    handle: int
    token_ids: npt.NDArray[np.int32]
    values: npt.NDArray[np.float32]
    ranks: npt.NDArray[np.int32]


class EngineOutputs(msgspec.Struct, kw_only=True, tag=True):
    """What one step gave to all sequences, as arrays: the cost of a running sequence is a few bytes here.

    Attributes:
        handles: int64[m], sequences that got tokens; a handle appears once.
        counts: int32[m], tokens each of them got (1 without speculation).
        tokens: int32[sum(counts)].
        finished: sequences that ended with this step; their last tokens are in ``tokens``. A stop or end token is
            included in ``tokens`` (the client leaves it out of the text).
        logprobs: for sequences that asked, for the tokens of this step.
        prompt_logprobs: for prompts whose log-probabilities are complete.
        cached: (handle, prompt tokens taken from the prefix cache) of sequences that started in this step.
        stats: numbers for metrics, or ``None``.
    """

    handles: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int32]
    tokens: npt.NDArray[np.int32]
    finished: list[Finish] = []
    logprobs: list[Logprobs] = []
    prompt_logprobs: list[Logprobs] = []
    cached: list[tuple[int, int]] = []
    stats: SchedulerStats | None = None


class SchedulerStats(msgspec.Struct, frozen=True, kw_only=True):
    """State after a step: gauges, and counters since the engine started."""

    running: int = 0
    waiting: int = 0
    blocks_total: int = 0
    blocks_used: int = 0
    steps: int = 0
    preemptions: int = 0
    prefix_queries: int = 0
    prefix_hits: int = 0
    prompt_tokens: int = 0
    generation_tokens: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers by name."""
        return msgspec.structs.asdict(self)


class EngineInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What a client must know about the engine behind it.

    Attributes:
        model: the model's name.
        max_model_len: longest sequence in tokens, prompt and output together.
        vocab_size: ids are below this.
        num_blocks: usable cache blocks.
        block_size: tokens per block.
        config: the configuration after adjustments, as plain data.
        description: what was chosen: platform, device, op providers, attention backends and refusals, memory report.
    """

    model: str
    max_model_len: int
    vocab_size: int
    num_blocks: int
    block_size: int
    config: dict[str, Any]
    description: dict[str, Any]


class Ready(msgspec.Struct, frozen=True, tag=True):
    """The engine takes requests now."""

    info: EngineInfo


ToEngine = EngineRequest | Abort | ResetPrefixCache | StartProfile | StopProfile | Shutdown
