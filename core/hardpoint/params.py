"""How to sample: the fields of vLLM's ``SamplingParams``, checked when made."""

from __future__ import annotations

import math
from typing import Any, Final, Literal

import msgspec

from hardpoint.contract.errors import RequestError

GREEDY_EPSILON: Final = 1e-5
MAX_LOGPROB_TOKEN_IDS: Final = 128

OutputKind = Literal["cumulative", "delta", "final_only"]


class RequestOutputKind:
    """Names for ``SamplingParams.output_kind``, spelt as in vLLM."""

    CUMULATIVE: Final = "cumulative"
    DELTA: Final = "delta"
    FINAL_ONLY: Final = "final_only"


class StructuredOutputsParams(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A constraint on the text; exactly one of the first six is set."""

    json: str | dict[str, Any] | None = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None
    structural_tag: str | None = None
    disable_any_whitespace: bool = False
    disable_additional_properties: bool = False
    whitespace_pattern: str | None = None

    def __post_init__(self) -> None:
        given = [n for n in ("json", "regex", "choice", "grammar", "json_object", "structural_tag") if getattr(self, n)]
        if len(given) != 1:
            raise RequestError(
                f"structured_outputs sets {', '.join(given) or 'nothing'}; set exactly one of json, regex, choice, "
                "grammar, json_object, structural_tag",
                field="structured_outputs",
            )


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How one request is sampled. Names, defaults and meaning are vLLM's.

    Attributes:
        n: sequences to generate from one prompt; they share the prompt's cache.
        presence_penalty: subtracted once from the logit of every token generated so far, in [-2, 2].
        frequency_penalty: subtracted per occurrence in the generated text, in [-2, 2].
        repetition_penalty: divides (multiplies, if negative) the logits of prompt and generated tokens; > 0, 1 is off.
        temperature: 0 is greedy.
        top_p: smallest set of tokens with this probability mass, in (0, 1].
        top_k: most likely tokens kept; 0 or -1 keeps all.
        min_p: least probability relative to the most likely token, in [0, 1].
        seed: reproduces the request whatever shares its batch; ``None`` draws one.
        stop: strings that end the text; not part of it unless ``include_stop_str_in_output``.
        stop_token_ids: ids that end the sequence.
        ignore_eos: go on after the end token.
        max_tokens: tokens to generate at most; ``None`` is up to the context's end.
        min_tokens: before so many tokens no end or stop token is sampled.
        logprobs: this many most likely tokens' log-probabilities per generated token (and the token's own); -1 is all.
        prompt_logprobs: the same for the prompt's tokens.
        logprob_token_ids: report these ids' log-probabilities instead of the most likely ones.
        detokenize: whether text is made at all.
        skip_special_tokens: leave special tokens out of the text.
        spaces_between_special_tokens: kept for compatibility; fast tokenizers decide themselves.
        include_stop_str_in_output: keep the stop string in the text.
        output_kind: what each output holds: everything so far, what is new, or only the end.
        stream_interval: tokens between two outputs of a stream, at least 1.
        structured_outputs: constrain the text.
        logit_bias: id -> value added to its logit, in [-100, 100].
        allowed_token_ids: sample from these ids only.
        bad_words: texts that must not appear.
        bad_words_token_ids: the same as token ids; filled from ``bad_words`` where the tokenizer is.
        extra_args: for plugins.
        skip_reading_prefix_cache: compute the whole prompt; set by default when ``prompt_logprobs`` is.
    """

    n: int = 1
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    max_tokens: int | None = 16
    min_tokens: int = 0
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    logprob_token_ids: list[int] | None = None
    detokenize: bool = True
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    include_stop_str_in_output: bool = False
    output_kind: OutputKind = "cumulative"
    stream_interval: int = 1
    structured_outputs: StructuredOutputsParams | None = None
    logit_bias: dict[int, float] | None = None
    allowed_token_ids: list[int] | None = None
    bad_words: list[str] | None = None
    bad_words_token_ids: list[list[int]] | None = None
    extra_args: dict[str, Any] | None = None
    skip_reading_prefix_cache: bool | None = None

    def __post_init__(self) -> None:
        for name, low, high in (("presence_penalty", -2.0, 2.0), ("frequency_penalty", -2.0, 2.0), ("min_p", 0.0, 1.0)):
            value = getattr(self, name)
            _require(low <= value <= high, name, value, f"it must be between {low:g} and {high:g}")
        _require(0.0 < self.top_p <= 1.0, "top_p", self.top_p, "it must be above 0 and at most 1")
        _require(
            0.0 < self.repetition_penalty < math.inf,
            "repetition_penalty",
            self.repetition_penalty,
            "it must be above 0",
        )
        _require(0.0 <= self.temperature < math.inf, "temperature", self.temperature, "it must not be negative")
        _require(self.top_k >= -1, "top_k", self.top_k, "it must be -1 or 0 (all) or positive")
        _require(1 <= self.n <= 16384, "n", self.n, "it must be between 1 and 16384")
        _require(
            self.max_tokens is None or self.max_tokens >= 1, "max_tokens", self.max_tokens, "it must be at least 1"
        )
        _require(self.min_tokens >= 0, "min_tokens", self.min_tokens, "it must not be negative")
        if self.max_tokens is not None:
            _require(self.min_tokens <= self.max_tokens, "min_tokens", self.min_tokens, "it must not exceed max_tokens")
        _require(self.logprobs is None or self.logprobs >= -1, "logprobs", self.logprobs, "it must be -1 (all) or more")
        _require(
            self.prompt_logprobs is None or self.prompt_logprobs >= -1,
            "prompt_logprobs",
            self.prompt_logprobs,
            "it must be -1 (all) or more",
        )
        _require(self.stream_interval >= 1, "stream_interval", self.stream_interval, "it must be at least 1")
        if self.seed is not None:
            _require(-(2**63) <= self.seed < 2**63, "seed", self.seed, "it must fit 64 bits")
        _require(all(self.stop_strings), "stop", self.stop, "an empty string would stop everything; leave it out")
        if self.stop and not self.detokenize:
            raise RequestError("stop strings need detokenize=True; use stop_token_ids without it", field="stop")
        if self.allowed_token_ids is not None:
            _require(bool(self.allowed_token_ids), "allowed_token_ids", [], "it must name at least one id")
        if self.logit_bias:
            for token, bias in self.logit_bias.items():
                _require(-100.0 <= bias <= 100.0, "logit_bias", {token: bias}, "values must be between -100 and 100")
        if self.logprob_token_ids is not None:
            _require(
                1 <= len(self.logprob_token_ids) <= MAX_LOGPROB_TOKEN_IDS,
                "logprob_token_ids",
                len(self.logprob_token_ids),
                f"it must name 1 to {MAX_LOGPROB_TOKEN_IDS} ids",
            )

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is taken; a temperature under 1e-5 counts as 0."""
        return self.temperature < GREEDY_EPSILON

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """The stop strings as a tuple."""
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    def replace(self, **changes: Any) -> SamplingParams:
        """Return a copy with ``changes`` applied and checked."""
        return msgspec.structs.replace(self, **changes)


class BeamSearchParams(msgspec.Struct, frozen=True, kw_only=True):
    """How ``LLM.beam_search`` searches; names and scores are vLLM's.

    Beams are ranked by the model's own log-probabilities; a ``temperature`` above 0 adds one sampled candidate a beam.
    """

    beam_width: int
    max_tokens: int
    ignore_eos: bool = False
    temperature: float = 0.0
    length_penalty: float = 1.0
    include_stop_str_in_output: bool = False

    def __post_init__(self) -> None:
        _require(self.beam_width >= 1, "beam_width", self.beam_width, "it must be at least 1")
        _require(self.max_tokens >= 1, "max_tokens", self.max_tokens, "it must be at least 1")


def _require(holds: bool, field: str, value: object, why: str) -> None:
    if not holds:
        raise RequestError(f"{field} is {value!r}; {why}", field=field)
