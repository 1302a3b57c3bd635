"""What the host knows of each row: its parameters in arrays, its token lists ready to be used as indices."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from hardpoint.contract.step import Int32s, RowStart
from hardpoint.params import SamplingParams
from hardpoint.runner.sampling.seeds import UInt64s, stream

Int64s = npt.NDArray[np.int64]
Float32s = npt.NDArray[np.float32]

# What a row needs beyond the most likely token.
RANDOM: Final = 1
TOP_P: Final = 2
TOP_K: Final = 4
MIN_P: Final = 8
MASKS: Final = 16
MIN_TOKENS: Final = 32
PENALTIES: Final = 64
WORDS: Final = 128
LOGPROBS: Final = 256

NO_IDS: Final[Int64s] = np.empty(0, np.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLists:
    """A row's token ids by meaning; all int64.

    Attributes:
        allowed: only these may be sampled; ``None``: any.
        banned: never sampled.
        bias_ids, bias: float32 values to add to logits.
        stops: not sampled before ``min_tokens``.
        logprob_ids: ids to report log-probabilities of, instead of the most likely ones; ``None``: the most likely ones.
    """

    allowed: Int64s | None
    banned: Int64s
    bias_ids: Int64s
    bias: Float32s
    stops: Int64s
    logprob_ids: Int64s | None


class Rows:
    """Parameters of all rows of a persistent batch.

    Attributes:
        flags: uint16[rows], the features that a row needs; 0 for a plain greedy row.
        temperature, min_p: float32[rows].
        top_p: float64[rows].
        top_k: int64[rows], 1 up to the vocabulary's size.
        streams: uint64[rows], see :mod:`hardpoint.runner.sampling.seeds`.
        stops_from: int32[rows], sequence length from which stop tokens may be sampled.
        logprobs: int32[rows], most likely tokens to report.
        presence, frequency, repetition: float32[rows], the penalties.
        lists: token lists of rows that have one of ``MASKS``, ``MIN_TOKENS``, ``LOGPROBS``.
    """

    def __init__(self, max_rows: int, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self.flags = np.zeros(max_rows, np.uint16)
        self.temperature = np.ones(max_rows, np.float32)
        self.min_p = np.zeros(max_rows, np.float32)
        self.top_p = np.ones(max_rows, np.float64)
        self.top_k = np.zeros(max_rows, np.int64)
        self.streams: UInt64s = np.zeros(max_rows, np.uint64)
        self.stops_from: Int32s = np.zeros(max_rows, np.int32)
        self.logprobs: Int32s = np.zeros(max_rows, np.int32)
        self.presence = np.zeros(max_rows, np.float32)
        self.frequency = np.zeros(max_rows, np.float32)
        self.repetition = np.ones(max_rows, np.float32)
        self.lists: dict[int, TokenLists] = {}

    def start(self, start: RowStart) -> None:
        """Fill the row of ``start``."""
        row, params = start.row, start.params
        lists = _token_lists(start)
        self.flags[row] = _flags(params, lists, self._vocab_size)
        self.temperature[row] = params.temperature
        self.min_p[row] = params.min_p
        self.top_p[row] = params.top_p
        self.top_k[row] = params.top_k if 0 < params.top_k < self._vocab_size else self._vocab_size
        self.streams[row] = stream(start.handle if params.seed is None else params.seed)
        self.stops_from[row] = start.num_prompt + params.min_tokens
        asked = params.logprobs or 0
        self.logprobs[row] = self._vocab_size if asked < 0 else min(asked, self._vocab_size)
        self.presence[row] = params.presence_penalty
        self.frequency[row] = params.frequency_penalty
        self.repetition[row] = params.repetition_penalty
        if self.flags[row] & (MASKS | MIN_TOKENS | LOGPROBS):
            self.lists[row] = lists

    def stop(self, row: int) -> None:
        """Forget the row."""
        self.flags[row] = 0
        self.lists.pop(row, None)


def _token_lists(start: RowStart) -> TokenLists:
    params = start.params
    bias = params.logit_bias or {}
    return TokenLists(
        allowed=None if params.allowed_token_ids is None else _ids(params.allowed_token_ids),
        banned=_ids(word[0] for word in params.bad_words_token_ids or () if len(word) == 1),
        bias_ids=_ids(bias),
        bias=np.fromiter(bias.values(), np.float32, len(bias)),
        stops=_ids((*start.eos_token_ids, *(params.stop_token_ids or ()))) if params.min_tokens else NO_IDS,
        logprob_ids=None if params.logprob_token_ids is None else _ids(params.logprob_token_ids),
    )


def _ids(ids: Iterable[int]) -> Int64s:
    return np.fromiter(ids, np.int64)


def _flags(params: SamplingParams, lists: TokenLists, vocab_size: int) -> int:
    flags = 0
    # The most likely token alone is what greedy rows take, ties included.
    if not params.greedy and params.top_k != 1:
        flags |= RANDOM
        flags |= TOP_P if params.top_p < 1.0 else 0
        flags |= TOP_K if 0 < params.top_k < vocab_size else 0
        flags |= MIN_P if params.min_p > 0.0 else 0
    if lists.allowed is not None or len(lists.banned) or len(lists.bias_ids):
        flags |= MASKS
    if len(lists.stops):
        flags |= MIN_TOKENS
    if params.presence_penalty or params.frequency_penalty or params.repetition_penalty != 1.0:
        flags |= PENALTIES
    if any(len(word) > 1 for word in params.bad_words_token_ids or ()):
        flags |= WORDS
    if params.logprobs is not None or lists.logprob_ids is not None:
        flags |= LOGPROBS
    return flags


class Slots:
    """Places in a table that only rows with some feature need: a row takes one and gives it back."""

    def __init__(self) -> None:
        self._of: dict[int, int] = {}
        self._free: list[int] = []
        self.size = 0

    def __len__(self) -> int:
        return len(self._of)

    def take(self, row: int) -> int:
        """Return a free slot for ``row``; ``size`` grows when there is none."""
        slot = self._free.pop() if self._free else self.size
        self.size = max(self.size, slot + 1)
        self._of[row] = slot
        return slot

    def release(self, row: int) -> bool:
        """Give the row's slot back; ``False`` if it has none. Without rows all slots are forgotten."""
        slot = self._of.pop(row, None)
        if slot is None:
            return False
        self._free.append(slot)
        if not self._of:
            self._free.clear()
            self.size = 0
        return True

    def of(self, rows: Int32s) -> Int64s:
        """Return the slots of ``rows``, all of which have one."""
        return np.array([self._of[int(row)] for row in rows], np.int64)
