"""The persistent batch: what the rows of a runner hold from step to step.

A plan says what changed; this applies it. Host arrays mirror what the host decides (block tables); what the device
decides (the last sampled token of a row) exists on the device only, so that the next step never waits for the host.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from hardpoint.contract.device import Device
from hardpoint.contract.step import Int32s, RowStart, StepPlan
from hardpoint.runner.sampling.transfer import Uploads


@dataclass(slots=True)
class BlockTable:
    """One KV group's block tables: int32[max_rows + 1, width] on host and device, always equal."""

    host: npt.NDArray[np.int32]
    device: torch.Tensor


class PersistentBatch:
    """Rows of running sequences.

    Args:
        max_rows: rows, ``BatchLimits.max_requests``.
        max_blocks: blocks that the longest sequence takes.
        num_groups: KV groups.
        device: where the device side lives.

    Attributes:
        spare_row: a row that never holds a sequence; its block table stays at the null block.
    """

    def __init__(self, *, max_rows: int, max_blocks: int, num_groups: int, device: Device) -> None:
        place = device.torch_device
        self.upload = Uploads(device)
        self.spare_row = max_rows
        self.starts: list[RowStart | None] = [None] * max_rows
        self.prompt_logprob_rows: set[int] = set()
        self.last_token = torch.zeros(max_rows + 1, dtype=torch.int64, device=place)
        self.tables = tuple(
            BlockTable(
                host=np.zeros((max_rows + 1, max_blocks), np.int32),
                device=torch.zeros((max_rows + 1, max_blocks), dtype=torch.int32, device=place),
            )
            for _ in range(num_groups)
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
        if plan.starts:
            rows = self.upload(np.array([start.row for start in plan.starts], np.int64))
            self.last_token[rows] = self.upload(np.array([start.token_ids[-1] for start in plan.starts], np.int64))
        for group, table in enumerate(self.tables):
            self._set_blocks(plan, group, table)

    def _set_blocks(self, plan: StepPlan, group: int, table: BlockTable) -> None:
        rows, columns, ids = [], [], []
        chosen = plan.block_groups == group
        if chosen.any():
            rows.append(plan.block_rows[chosen])
            columns.append(plan.block_columns[chosen])
            ids.append(plan.block_ids[chosen])
        for start in plan.starts:
            blocks = start.blocks[group]
            rows.append(np.full(len(blocks), start.row, np.int32))
            columns.append(np.arange(len(blocks), dtype=np.int32))
            ids.append(blocks)
        if not rows:
            return
        row, column, block = np.concatenate(rows), np.concatenate(columns), np.concatenate(ids)
        table.host[row, column] = block
        flat = row.astype(np.int64) * table.host.shape[1] + column
        table.device.view(-1)[self.upload(flat)] = self.upload(block.astype(np.int32, copy=False))

    def known_tokens(self, row: int, start: int, count: int) -> Int32s:
        """Return ``count`` token ids of a row from position ``start``; the host must know them (a prompt's chunk)."""
        known = self.starts[row]
        if known is None:
            raise RuntimeError(f"row {row} holds no sequence")
        return known.token_ids[start : start + count]
