"""What is left of one step under the platform's limits."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hardpoint.contract.errors import ConfigError
from hardpoint.contract.limits import BatchLimits

Counts = npt.NDArray[np.int32]


class StepBudget:
    """One step under construction: what it holds so far, and how much more fits.

    A row is a *decode* when it computes the one token that it has left, else a *prefill* (chunks of unfinished prompts,
    drafts to verify).

    Args:
        limits: the platform's.
        max_tokens, max_requests: the configuration's bounds where they are smaller.

    Raises:
        ConfigError: when the limits leave no room for any prefill or decode.
    """

    def __init__(self, limits: BatchLimits, max_tokens: int, max_requests: int) -> None:
        self.limits = limits
        self.max_tokens = min(limits.max_tokens, max_tokens)
        self.max_requests = min(limits.max_requests, max_requests)
        self._wide = [shape for shape in limits.shapes if not shape.decode]
        #: Most tokens that a lone prefill may have in one step.
        self.max_chunk = self.max_tokens
        if limits.shapes:
            self.max_chunk = min(self.max_tokens, max((shape.tokens for shape in self._wide), default=0))
        if self.max_chunk < 1:
            raise ConfigError("the platform prepared decode shapes only; it needs a shape for prefills")
        if limits.chunk_multiple > self.max_chunk:
            raise ConfigError(
                f"a prefill chunk holds a multiple of {limits.chunk_multiple} tokens, and a step at most {self.max_chunk}; "
                "raise max_num_batched_tokens"
            )
        if limits.max_prefills == 0 or limits.max_decodes == 0:
            raise ConfigError("the platform's limits allow no prefills or no decodes at all")
        self.reset()
        #: Whether not all running rows may fit one step, so that they must take turns.
        self.takes_turns = self._decode_rows() < self.max_requests or limits.token_area is not None

    def reset(self) -> None:
        """Begin a step."""
        self.tokens = self.requests = self.prefills = self.decodes = self.longest = 0

    @property
    def empty(self) -> bool:
        """Whether nothing is in the step yet."""
        return not self.requests

    def add_decodes(self, count: int, longest: int) -> None:
        """Put ``count`` decodes, the longest with ``longest`` tokens after the step, into it."""
        self.tokens += count
        self.requests += count
        self.decodes += count
        self.longest = max(self.longest, longest)

    def remove_decode(self) -> None:
        """Take one decode out again."""
        self.tokens -= 1
        self.requests -= 1
        self.decodes -= 1

    def add_prefill(self, tokens: int, length: int) -> None:
        """Put a chunk of ``tokens`` tokens, after which its sequence has ``length`` computed ones, into the step."""
        self.tokens += tokens
        self.requests += 1
        self.prefills += 1
        self.longest = max(self.longest, length)

    def decodes_that_fit(self, lengths: Counts) -> int:
        """Return how many of the decodes with ``lengths`` tokens after the step fit, taken from the front."""
        count = min(len(lengths), self._decode_rows())
        area = self.limits.token_area
        if area is not None and count:
            longest = np.maximum(np.maximum.accumulate(lengths[:count]), self.longest).astype(np.int64)
            count = int(np.count_nonzero(longest * np.arange(self.requests + 1, self.requests + count + 1) <= area))
        return count

    def _decode_rows(self) -> int:
        limits = self.limits
        count = min(self.max_tokens - self.tokens, self.max_requests - self.requests)
        if limits.max_decodes is not None:
            count = min(count, limits.max_decodes - self.decodes)
        if self.prefills and not limits.mix_prefill_decode:
            count = 0
        if limits.shapes:
            shapes = self._wide if self.prefills else limits.shapes
            room = max((min(s.tokens - self.tokens, s.requests - self.requests) for s in shapes), default=0)
            count = min(count, room)
        return max(count, 0)

    def prefill_room(self, computed: int) -> int:
        """Return how many tokens one more prefill may have whose sequence has ``computed`` tokens computed; 0 for none."""
        limits = self.limits
        requests = self.requests + 1
        if (
            requests > self.max_requests
            or (limits.max_prefills is not None and self.prefills >= limits.max_prefills)
            or (self.decodes and not limits.mix_prefill_decode)
        ):
            return 0
        room = self.max_tokens - self.tokens
        if limits.shapes:
            room = min(room, max((s.tokens - self.tokens for s in self._wide if s.requests >= requests), default=0))
        if limits.token_area is not None:
            longest = limits.token_area // requests
            room = 0 if self.longest > longest else min(room, longest - computed)
        return max(room, 0)

    def decode_fits(self, length: int) -> bool:
        """Whether one more decode fits whose sequence has ``length`` tokens after the step."""
        return self.decodes_that_fit(np.array([length], np.int32)) == 1

    def chunk(self, remaining: int, room: int, threshold: int) -> int:
        """Return how many of ``remaining`` prompt tokens to compute in ``room``; 0 when no legal chunk fits.

        ``threshold`` is the configured longest chunk, 0 for none. A chunk that does not end the prompt is a multiple of
        ``limits.chunk_multiple``; it is one multiple even where the threshold is smaller.
        """
        multiple = self.limits.chunk_multiple
        bound = min(room, max(threshold, multiple)) if threshold else room
        if remaining <= bound:
            return remaining
        return bound - bound % multiple
