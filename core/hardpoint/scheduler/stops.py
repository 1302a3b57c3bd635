"""Which token ids end some running sequence, as one lookup for a whole step."""

from __future__ import annotations

from collections import Counter

import numpy as np

from hardpoint.contract.step import Bools, Int32s


class StopTable:
    """A boolean per id of the vocabulary, counted, so that only candidates are looked at one by one."""

    def __init__(self, vocab_size: int) -> None:
        self._flags = np.zeros(vocab_size, np.bool_)
        self._counts: Counter[int] = Counter()

    def add(self, ids: tuple[int, ...]) -> None:
        """Count a running sequence's ids; those outside the vocabulary never occur and are left out."""
        for token in ids:
            if 0 <= token < len(self._flags):
                self._counts[token] += 1
                self._flags[token] = True

    def remove(self, ids: tuple[int, ...]) -> None:
        """Undo :meth:`add`."""
        for token in ids:
            if 0 <= token < len(self._flags):
                self._counts[token] -= 1
                if not self._counts[token]:
                    del self._counts[token]
                    self._flags[token] = False

    def candidates(self, tokens: Int32s) -> Bools:
        """Return which of ``tokens`` may end their sequence, in ``tokens``' shape."""
        return self._flags.take(tokens, mode="clip")

    @property
    def empty(self) -> bool:
        """Whether no id ends anything."""
        return not self._counts
