"""Presence, frequency and repetition penalties: which tokens each row holds, counted on the device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from hardpoint.contract.step import Int32s, RowStart
from hardpoint.runner.sampling.rows import PENALTIES, Int64s, Rows, Slots
from hardpoint.runner.sampling.transfer import Uploads

if TYPE_CHECKING:
    from hardpoint.ops import OpTable


@dataclass(frozen=True, slots=True)
class PenaltyGroup:
    """The rows of one batch that have penalties; tensors are on the device.

    Attributes:
        index: int64[m], their batch positions, ``None`` when it is all of them, in order.
        slots: int64[m], their places in the tables.
        presence, frequency, repetition: float32[m].
    """

    index: torch.Tensor | None
    slots: torch.Tensor
    presence: torch.Tensor
    frequency: torch.Tensor
    repetition: torch.Tensor


class Penalties:
    """Token tables of the rows that have penalties; they grow with the number of such rows and vanish with the last.

    A resumed row is counted anew from its known tokens, so that a preemption changes nothing.
    """

    def __init__(self, vocab_size: int, device: torch.device, upload: Uploads, ops: OpTable) -> None:
        self._vocab_size, self._upload, self._ops = vocab_size, upload, ops
        self._slots = Slots()
        self._in_prompt = torch.zeros((0, vocab_size), dtype=torch.bool, device=device)
        self._counts = torch.zeros((0, vocab_size), dtype=torch.int32, device=device)

    @property
    def capacity(self) -> int:
        """Rows that fit into the tables without growing them."""
        return len(self._counts)

    def start(self, start: RowStart) -> None:
        """Take a slot for the row and count its known tokens."""
        slot = self._slots.take(start.row)
        if slot >= self.capacity:
            more = max(4, slot + 1 - self.capacity, self.capacity)
            self._in_prompt = _grown(self._in_prompt, more)
            self._counts = _grown(self._counts, more)
        prompt = np.unique(start.token_ids[: start.num_prompt]).astype(np.int64)
        output, counts = np.unique(start.token_ids[start.num_prompt :], return_counts=True)
        self._in_prompt[slot].zero_().index_fill_(0, self._upload(prompt), True)
        row = self._counts[slot].zero_()
        if len(output):
            row.index_copy_(0, self._upload(output.astype(np.int64)), self._upload(counts.astype(np.int32)))

    def stop(self, row: int) -> None:
        """Give the row's slot back, if it has one."""
        if self._slots.release(row) and not len(self._slots):
            self._in_prompt, self._counts = self._in_prompt[:0].clone(), self._counts[:0].clone()

    def group(self, rows: Rows, batch: Int32s) -> PenaltyGroup | None:
        """Return the rows of ``batch`` that have penalties, ``None`` when there are none."""
        at: Int64s = np.flatnonzero(rows.flags[batch] & PENALTIES)
        if not len(at):
            return None
        chosen = batch[at]
        return PenaltyGroup(
            index=None if len(at) == len(batch) else self._upload(at),
            slots=self._upload(self._slots.of(chosen)),
            presence=self._upload(rows.presence[chosen]),
            frequency=self._upload(rows.frequency[chosen]),
            repetition=self._upload(rows.repetition[chosen]),
        )

    def apply(self, logits: torch.Tensor, group: PenaltyGroup) -> None:
        """Change the group's logits in place."""
        own = logits if group.index is None else logits.index_select(0, group.index)
        own = self._ops.apply_penalties(
            own, group.slots, self._in_prompt, self._counts, group.presence, group.frequency, group.repetition
        )
        if group.index is not None:
            logits.index_copy_(0, group.index, own)

    def count(self, tokens: torch.Tensor, group: PenaltyGroup) -> None:
        """Add the group's sampled tokens to its rows' counts."""
        own = tokens if group.index is None else tokens.index_select(0, group.index)
        flat = group.slots * self._vocab_size + own
        self._counts.view(-1).index_add_(0, flat, torch.ones_like(flat, dtype=torch.int32))


def _grown(table: torch.Tensor, more: int) -> torch.Tensor:
    return torch.cat((table, table.new_zeros((more, table.shape[1]))))
