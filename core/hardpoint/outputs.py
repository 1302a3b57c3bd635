"""What a request gives back. Names and shapes are vLLM's."""

from __future__ import annotations

from dataclasses import dataclass, field

from hardpoint.contract.errors import HardpointError


@dataclass(frozen=True, slots=True)
class Logprob:
    """Log-probability of one token at one position.

    Attributes:
        logprob: natural logarithm.
        rank: 1 for the most likely token of the position; ``None`` where it is not known.
        decoded_token: the token's text, ``None`` without a tokenizer.
    """

    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


#: One dict a generated token: token id -> log-probability.
SampleLogprobs = list[dict[int, Logprob]]
#: The same for the prompt; the first token has no probability.
PromptLogprobs = list[dict[int, Logprob] | None]


@dataclass(slots=True)
class RequestMetrics:
    """When things happened, in seconds of ``time.monotonic``.

    Attributes:
        arrival_time: the request was accepted.
        first_token_time: the first token of any of its sequences was seen.
        last_token_time: the latest one.
        finished_time: all sequences had ended.
        num_generation_tokens: tokens generated so far over all sequences.
    """

    arrival_time: float
    first_token_time: float | None = None
    last_token_time: float | None = None
    finished_time: float | None = None
    num_generation_tokens: int = 0


@dataclass(slots=True)
class CompletionOutput:
    """One sequence of a request.

    Attributes:
        index: number of the sequence, below ``n``.
        text: the text so far, or what is new with ``output_kind="delta"``.
        token_ids: the tokens so far, or the new ones; an end or stop token is among them.
        cumulative_logprob: sum of the log-probabilities of all tokens so far, when logprobs were asked for.
        logprobs: one dict for each of ``token_ids``, when they were asked for.
        finish_reason: ``"stop"``, ``"length"`` or ``"abort"``; ``None`` while it runs.
        stop_reason: the stop string or stop token id that ended it; ``None`` for the end token and for other reasons.
    """

    index: int
    text: str
    token_ids: list[int]
    cumulative_logprob: float | None = None
    logprobs: SampleLogprobs | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None

    def finished(self) -> bool:
        """Return whether the sequence has ended."""
        return self.finish_reason is not None


@dataclass(slots=True)
class RequestOutput:
    """The state of a request, or what is new of it with ``output_kind="delta"``.

    Attributes:
        request_id: the request's name.
        prompt: its text, ``None`` when it came as token ids.
        prompt_token_ids: its tokens.
        prompt_logprobs: one entry a prompt token (``None`` for the first), when asked for; a stream carries them once.
        outputs: the sequences in order of ``index``; with ``"delta"`` those that have news.
        finished: whether all sequences have ended.
        metrics: times.
        num_cached_tokens: prompt tokens that came from the prefix cache, ``None`` until the request started.
    """

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    prompt_logprobs: PromptLogprobs | None
    outputs: list[CompletionOutput]
    finished: bool
    metrics: RequestMetrics | None = None
    num_cached_tokens: int | None = None

    def add(self, newer: RequestOutput, *, aggregate: bool) -> None:
        """Merge the output that follows this one.

        Args:
            newer: the next output of the same request.
            aggregate: append its text, tokens and logprobs (deltas); otherwise it replaces what is here.
        """
        self.finished = newer.finished
        self.metrics = newer.metrics
        self.num_cached_tokens = newer.num_cached_tokens
        self.prompt_logprobs = newer.prompt_logprobs or self.prompt_logprobs
        mine = {completion.index: position for position, completion in enumerate(self.outputs)}
        for completion in newer.outputs:
            position = mine.get(completion.index)
            if position is None:
                self.outputs.append(completion)
            elif aggregate:
                _extend(self.outputs[position], completion)
            else:
                self.outputs[position] = completion
        self.outputs.sort(key=lambda completion: completion.index)


def _extend(older: CompletionOutput, newer: CompletionOutput) -> None:
    older.text += newer.text
    older.token_ids.extend(newer.token_ids)
    if newer.logprobs:
        older.logprobs = (older.logprobs or []) + newer.logprobs
    older.cumulative_logprob = newer.cumulative_logprob
    older.finish_reason = newer.finish_reason
    older.stop_reason = newer.stop_reason


@dataclass(slots=True)
class BeamSearchSequence:
    """One beam: prompt and continuation in ``tokens`` and, with a tokenizer, in ``text``.

    Attributes:
        tokens: the prompt's tokens and those of the beam, the end token included.
        logprobs: for each token of the beam, the candidates of its position.
        cum_logprob: sum of the log-probabilities of the beam's tokens.
        text: all ``tokens`` as text, special tokens included as the tokenizer decodes them.
        finish_reason: ``"stop"`` when the end token was reached, else ``"length"``.
        stop_reason: kept for compatibility; ``None``.
    """

    tokens: list[int]
    logprobs: SampleLogprobs
    cum_logprob: float = 0.0
    text: str | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None


@dataclass(slots=True)
class BeamSearchOutput:
    """The best beams of one prompt, the best first."""

    sequences: list[BeamSearchSequence]


@dataclass(slots=True)
class BatchFailure:
    """A prompt that failed: its position in the batch and the error."""

    index: int
    error: Exception = field(repr=False)


class BatchError(HardpointError, RuntimeError):
    """Some prompts of a batch failed while the others ran to their end.

    Attributes:
        outputs: results in input order, ``None`` where a prompt failed.
        failures: which prompts failed, and why.
    """

    def __init__(self, outputs: list[RequestOutput | None], failures: list[BatchFailure]) -> None:
        first = failures[0]
        super().__init__(
            f"{len(failures)} of {len(outputs)} prompts failed; the first is prompt {first.index}: {first.error}. "
            "The results of the others are in this error's `outputs`"
        )
        self.outputs = outputs
        self.failures = failures
