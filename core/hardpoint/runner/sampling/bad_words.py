"""Bad words of several tokens: the last token is forbidden where the others have just been sampled.

Only sampled tokens count, as in vLLM: a word that begins in the prompt is not one that the model wrote.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch

from hardpoint.contract.step import Int32s, RowStart
from hardpoint.runner.sampling.rows import WORDS, Int64s, Rows, Slots
from hardpoint.runner.sampling.transfer import Uploads

#: In a row's recent tokens: nothing sampled there yet. In a word's beginning: any token.
_NONE: Final = -1
_ANY: Final = -2


@dataclass(frozen=True, slots=True)
class WordGroup:
    """The words of one batch; int64 on the device.

    Attributes:
        index: [m], batch positions of the rows that have words.
        slots: [m], their places among the recent tokens.
        owners: [w], each word's row among the ``m``.
        beginnings: [w, length], each word without its last token, aligned to the right.
        lasts: [w], flat index of each word's last token in the logits.
    """

    index: torch.Tensor
    slots: torch.Tensor
    owners: torch.Tensor
    beginnings: torch.Tensor
    lasts: torch.Tensor


class BadWords:
    """The last sampled tokens of rows that have words of several tokens."""

    def __init__(self, vocab_size: int, device: torch.device, upload: Uploads) -> None:
        self._vocab_size, self._upload = vocab_size, upload
        self._slots = Slots()
        self._words: dict[int, list[list[int]]] = {}
        self._recent = torch.full((0, 1), _NONE, dtype=torch.int64, device=device)

    def start(self, start: RowStart) -> None:
        """Take a slot for the row and fill it with the last tokens that it sampled before."""
        words = [word for word in start.params.bad_words_token_ids or () if len(word) > 1]
        self._words[start.row] = words
        slot = self._slots.take(start.row)
        self._grow(slot + 1, max(len(word) - 1 for word in words))
        length = self._recent.shape[1]
        sampled = start.token_ids[start.num_prompt :][-length:].astype(np.int64)
        recent = np.full(length, _NONE, np.int64)
        recent[length - len(sampled) :] = sampled
        self._recent[slot] = self._upload(recent)

    def stop(self, row: int) -> None:
        """Give the row's slot back, if it has one."""
        self._words.pop(row, None)
        if self._slots.release(row) and not len(self._slots):
            self._recent = self._recent[:0, :1].clone()

    def group(self, rows: Rows, batch: Int32s) -> WordGroup | None:
        """Return the words of the rows in ``batch``, ``None`` when there are none."""
        at: Int64s = np.flatnonzero(rows.flags[batch] & WORDS)
        if not len(at):
            return None
        owned = [(owner, word) for owner, row in enumerate(batch[at]) for word in self._words[int(row)]]
        owners = np.array([owner for owner, _ in owned], np.int64)
        beginnings = np.full((len(owned), self._recent.shape[1]), _ANY, np.int64)
        for line, (_, word) in zip(beginnings, owned, strict=True):
            line[len(line) - len(word) + 1 :] = word[:-1]
        lasts = np.array([word[-1] for _, word in owned], np.int64)
        return WordGroup(
            index=self._upload(at),
            slots=self._upload(self._slots.of(batch[at])),
            owners=self._upload(owners),
            beginnings=self._upload(beginnings),
            lasts=self._upload(at[owners] * self._vocab_size + lasts),
        )

    def apply(self, logits: torch.Tensor, group: WordGroup) -> None:
        """Forbid in place what would complete a word; ``logits`` is contiguous."""
        recent = self._recent.index_select(0, group.slots).index_select(0, group.owners)
        begun = ((recent == group.beginnings) | (group.beginnings == _ANY)).all(-1)
        # Adding, so that of several words with the same last token one is enough.
        forbidden = torch.where(begun, -torch.inf, 0.0).to(logits.dtype)
        logits.view(-1).index_add_(0, group.lasts, forbidden)

    def push(self, tokens: torch.Tensor, group: WordGroup) -> None:
        """Append the group's sampled tokens to its rows' recent ones."""
        before = self._recent.index_select(0, group.slots)[:, 1:]
        own = tokens.index_select(0, group.index).unsqueeze(-1)
        self._recent.index_copy_(0, group.slots, torch.cat((before, own), -1))

    def _grow(self, rows: int, length: int) -> None:
        """Make room for at least ``rows`` slots and ``length`` tokens, without losing what is there."""
        had_rows, had = self._recent.shape
        if rows <= had_rows and length <= had:
            return
        more = max(4, rows, 2 * had_rows) if rows > had_rows else had_rows
        recent = self._recent.new_full((more, max(length, had)), _NONE)
        recent[:had_rows, recent.shape[1] - had :] = self._recent
        self._recent = recent
