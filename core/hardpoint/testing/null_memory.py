"""The cache of the null device, which checks what is read from it."""

from __future__ import annotations

from typing import Any

import numpy as np

from hardpoint.contract.kv import KVPlan
from hardpoint.testing.null_model import NullModel


class NullPlanError(AssertionError):
    """A plan contradicts the contract; the text says where."""


class NullMemory:
    """Simulated cache: per slot a state, its position, and the group that wrote it.

    Args:
        model: what makes states.
        kv: how the cache is divided.
        num_rows: rows of the persistent batch.
    """

    def __init__(self, model: NullModel, kv: KVPlan, num_rows: int) -> None:
        self.model = model
        self.size = kv.block_size
        self._states = np.zeros((kv.num_blocks, kv.block_size), np.uint64)
        self._positions = np.full((kv.num_blocks, kv.block_size), -1, np.int64)
        self._groups = np.full((kv.num_blocks, kv.block_size), -1, np.int64)
        self.tables: list[dict[int, dict[int, int]]] = [{row: {} for row in range(num_rows)} for _ in kv.groups]

    def slot(self, group: int, row: int, position: int) -> tuple[int, int]:
        column, offset = divmod(position, self.size)
        block = self.tables[group][row].get(column, 0)
        if not 0 < block < len(self._states):
            raise NullPlanError(f"row {row}, group {group}: no block for position {position}")
        return block, offset

    def copy(self, source: int, destination: int) -> None:
        for array in (self._states, self._positions, self._groups):
            array[destination] = array[source]

    def read(self, group: int, row: int, first: int, end: int) -> np.ndarray[Any, np.dtype[np.uint64]]:
        """Return the states of positions ``first`` to ``end`` - 1, and check that they are what the table says."""
        slots = [self.slot(group, row, position) for position in range(first, end)]
        at = tuple(np.array(slots).T)
        wrong = (self._positions[at] != np.arange(first, end)) | (self._groups[at] != group)
        if wrong.any():
            which = int(np.argmax(wrong))
            block, offset = slots[which]
            raise NullPlanError(
                f"row {row}, group {group}: block {block} offset {offset} should hold position {first + which} and holds "
                f"position {self._positions[block, offset]} of group {self._groups[block, offset]}"
            )
        result: np.ndarray[Any, np.dtype[np.uint64]] = self._states[at]
        return result

    def write(self, row: int, position: int, token: int, adapter: str | None) -> list[tuple[int, int]]:
        """Store a token's state in every group and return the slots written."""
        slots = []
        for group, window in enumerate(self.model.windows):
            if window == 1:
                state = self.model.isolated(token, position)
            else:
                before = int(self.read(group, row, position - 1, position)[0]) if position else self.model.root(adapter)
                state = self.model.state(before, token)
            slot = self.slot(group, row, position)
            self._states[slot] = state
            self._positions[slot] = position
            self._groups[slot] = group
            slots.append(slot)
        return slots
