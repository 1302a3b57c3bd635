"""The null model: its next token is a hash of everything that it may attend to.

Keys and values are stood in for by one number per token and group of layers: a hash chain over the sequence up to that
token, as a real key depends on all that came before it. The next token is a hash of the numbers in each group's window.
Whatever reads a wrong, stale or missing number gets another token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from hardpoint.params import SamplingParams

States = npt.NDArray[np.uint64]

_MASK: Final = 2**64 - 1
_ODD: Final = 0x9E3779B97F4A7C15


def scramble(value: int) -> int:
    """Return a 64-bit hash of an integer (the finalizer of SplitMix64, Steele et al. 2014)."""
    value = (value + _ODD) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def scramble_array(values: States) -> States:
    """Return :func:`scramble` of each element."""
    values = values + np.uint64(_ODD)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    result: States = values ^ (values >> np.uint64(31))
    return result


@dataclass(frozen=True, slots=True)
class Generation:
    """What :meth:`NullModel.generate` gives: tokens, and why they end (as ``Finish.reason`` and ``Finish.stop``)."""

    tokens: list[int]
    reason: str
    stop: int | None


@dataclass(frozen=True, slots=True)
class NullModel:
    """A model without weights.

    Attributes:
        vocab_size: ids are below this; small, so that sequences meet their end tokens.
        windows: per group of layers, tokens seen, the current one included; ``None`` is all.
    """

    vocab_size: int = 32
    windows: tuple[int | None, ...] = (None,)

    def root(self, adapter: str | None) -> int:
        """Return the state before the first token."""
        return 0 if adapter is None else scramble(int.from_bytes(adapter.encode()[:32], "little") & _MASK)

    def state(self, before: int, token: int) -> int:
        """Return the state of a token after the state ``before``."""
        return scramble(before ^ scramble(token + 1))

    def isolated(self, token: int, position: int) -> int:
        """Return the state of a token in a group whose window holds nothing but itself."""
        return scramble(scramble(token + 1) ^ position)

    def attend(self, states: States, first: int) -> int:
        """Return what a group gives for the ``states`` in its window, which begins at position ``first``."""
        positions = np.arange(first, first + len(states), dtype=np.uint64)
        return int(scramble_array(states ^ scramble_array(positions)).sum(dtype=np.uint64))

    def sample(self, parts: Sequence[int], params: SamplingParams, eos: Sequence[int], generated: int) -> int:
        """Return the next token for what the groups gave, after ``generated`` generated tokens.

        Greedy requests ignore their seed. End and stop tokens are left out while ``params.min_tokens`` is not reached.
        """
        value = 0
        for part in parts:
            value = scramble(value ^ part)
        if not params.greedy:
            value = scramble(value ^ ((params.seed or 0) & _MASK))
        token = value % self.vocab_size
        if generated < params.min_tokens:
            barred = {*eos, *(params.stop_token_ids or ())}
            while token in barred:
                token = (token + 1) % self.vocab_size
        return token

    def generate(
        self,
        prompt: Sequence[int] | npt.NDArray[Any],
        params: SamplingParams,
        *,
        eos: Sequence[int] = (),
        max_model_len: int,
        adapter: str | None = None,
    ) -> Generation:
        """Return what a sequence must give however it is scheduled: one sequence alone, no blocks, no batches."""
        tokens = [int(token) for token in prompt]
        limit = max_model_len if params.max_tokens is None else min(len(tokens) + params.max_tokens, max_model_len)
        states = [self.root(adapter)]
        for token in tokens:
            states.append(self.state(states[-1], token))
        made: list[int] = []
        while True:
            last = len(tokens) - 1
            parts = []
            for window in self.windows:
                first = 0 if window is None else max(last - window + 1, 0)
                seen = states[first + 1 :] if window != 1 else [self.isolated(tokens[last], last)]
                parts.append(self.attend(np.array(seen, np.uint64), first))
            token = self.sample(parts, params, eos, len(made))
            tokens.append(token)
            made.append(token)
            states.append(self.state(states[-1], token))
            if len(made) >= params.min_tokens:
                if token in eos:
                    return Generation(made, "stop", None)
                if token in (params.stop_token_ids or ()):
                    return Generation(made, "stop", token)
            if len(tokens) >= limit:
                return Generation(made, "length", None)
