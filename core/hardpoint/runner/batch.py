"""The persistent batch: what the rows of a runner hold from step to step.

A plan says what changed; this applies it. Host arrays mirror what the host decides (block tables); what the device
decides (the newest tokens of a row) exists on the device only, so that the next step never waits for the host.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from hardpoint.contract.device import Device
from hardpoint.contract.step import Int32s, RowStart, StepPlan
from hardpoint.runner.sampling.transfer import Uploads


@dataclass(slots=True)
class BlockTable:
    """One KV group's block tables: int32[max_rows + 1, width] on host and device, always equal.

    ``slot_dtype`` is numpy's name of the type in which the group's attention backend wants slots.
    """

    host: npt.NDArray[np.int32]
    device: torch.Tensor
    slot_dtype: str = "int64"


class PersistentBatch:
    """Rows of running sequences.

    Args:
        max_rows: rows, ``BatchLimits.max_requests``.
        max_blocks: blocks that the longest sequence takes.
        slot_dtypes: per KV group, see :class:`BlockTable`.
        device: where the device side lives.

    Attributes:
        spare_row: a row that never holds a sequence; its block table stays at the null block.
        newest: int64[max_rows + 1, 2] on the device, see :mod:`hardpoint.ops.decode`.
    """

    def __init__(self, *, max_rows: int, max_blocks: int, slot_dtypes: Sequence[str], device: Device) -> None:
        place = device.torch_device
        self.upload = Uploads(device)
        self.spare_row = max_rows
        self.starts: list[RowStart | None] = [None] * max_rows
        self.prompt_logprob_rows: set[int] = set()
        self.newest = torch.zeros((max_rows + 1, 2), dtype=torch.int64, device=place)
        self.tables = tuple(
            BlockTable(
                host=np.zeros((max_rows + 1, max_blocks), np.int32),
                device=torch.zeros((max_rows + 1, max_blocks), dtype=torch.int32, device=place),
                slot_dtype=slot_dtype,
            )
            for slot_dtype in slot_dtypes
        )

    def apply(self, plan: StepPlan) -> None:
        """Apply the rows and block table entries that changed with ``plan``."""
        for row in plan.stops:
            self.starts[row] = None
            self.prompt_logprob_rows.discard(int(row))
        for start in plan.starts:
            self.starts[start.row] = start
            if start.params.prompt_logprobs is not None:
                self.prompt_logprob_rows.add(start.row)
        changes: list[tuple[torch.Tensor, npt.NDArray[Any], npt.NDArray[Any]]] = []
        if plan.starts:
            at = [2 * start.row + (len(start.token_ids) - 1) % 2 for start in plan.starts]
            tokens = [int(start.token_ids[-1]) for start in plan.starts]
            changes.append((self.newest, np.array(at, np.int64), np.array(tokens, np.int64)))
        for group, table in enumerate(self.tables):
            if plan.starts or len(plan.block_ids):
                changes += self._set_blocks(plan, group, table)
        if changes:
            there = iter(self.upload.together(*(array for _, *arrays in changes for array in arrays)))
            for target, _, _ in changes:
                target.view(-1).scatter_(0, next(there), next(there))

    def clear(self) -> None:
        """Forget every row."""
        self.starts = [None] * len(self.starts)
        self.prompt_logprob_rows.clear()

    def _set_blocks(
        self, plan: StepPlan, group: int, table: BlockTable
    ) -> list[tuple[torch.Tensor, npt.NDArray[Any], npt.NDArray[Any]]]:
        """Set the host's entries; return the same change for the device as flat indices and ids."""
        chosen = plan.block_groups == group
        rows, columns, ids = [plan.block_rows[chosen]], [plan.block_columns[chosen]], [plan.block_ids[chosen]]
        for start in plan.starts:
            blocks = start.blocks[group]
            rows.append(np.full(len(blocks), start.row, np.int32))
            columns.append(np.arange(len(blocks), dtype=np.int32))
            ids.append(blocks)
        row, column, block = np.concatenate(rows), np.concatenate(columns), np.concatenate(ids)
        if not len(block):
            return []
        table.host[row, column] = block
        flat = row.astype(np.int64) * table.host.shape[1] + column
        return [(table.device, flat, block.astype(np.int32, copy=False))]

    def known_tokens(self, row: int, start: int, count: int) -> Int32s:
        """Return ``count`` token ids of a row from position ``start``; the host must know them (a prompt's chunk)."""
        known = self.starts[row]
        if known is None:
            raise RuntimeError(f"row {row} holds no sequence")
        return known.token_ids[start : start + count]
