"""What a platform can run in one step, as data that the scheduler obeys."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchShape:
    """A step shape that a platform prepared: ``tokens`` spread over ``requests`` rows, ``decode`` if one token each."""

    tokens: int
    requests: int
    decode: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLimits:
    """Bounds on one step. Every bound holds for every plan that the scheduler makes.

    Attributes:
        max_tokens: tokens in one step, over all requests.
        max_requests: rows in one step; also the number of rows of the persistent batch.
        mix_prefill_decode: whether a step may hold prefill chunks beside decodes.
        max_prefills: requests with more than one token (or unfinished prompts) in one step; ``None`` is any number.
        max_decodes: decoding requests in one step; ``None`` is any number.
        decode_after_prefill: after a step with prefills, the next one must be decode-only if there is anything to decode.
        shapes: shapes that the platform prepared; empty means any. A plan fits the smallest shape that holds it.
        token_area: bound on (longest context in the step) x (requests in the step); ``None`` is no bound.
        chunk_multiple: a prefill chunk that does not end its prompt holds a multiple of this many tokens.
        lookahead: tokens for which blocks are reserved past the scheduled ones (multi-step decode, speculation).
        sampled_per_step: most tokens that one request may get from one step.
    """

    max_tokens: int
    max_requests: int
    mix_prefill_decode: bool = True
    max_prefills: int | None = None
    max_decodes: int | None = None
    decode_after_prefill: bool = False
    shapes: tuple[BatchShape, ...] = ()
    token_area: int | None = None
    chunk_multiple: int = 1
    lookahead: int = 0
    sampled_per_step: int = 1

    def __post_init__(self) -> None:
        for name in ("max_tokens", "max_requests", "chunk_multiple", "sampled_per_step"):
            if getattr(self, name) < 1:
                raise ValueError(f"BatchLimits.{name} is {getattr(self, name)}; it must be at least 1")
        if self.lookahead < 0:
            raise ValueError(f"BatchLimits.lookahead is {self.lookahead}; it must not be negative")
