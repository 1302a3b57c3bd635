"""From a plan to what a forward pass reads: token ids, positions, slots, and each KV group's view of the batch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from hardpoint.contract.attention import BatchView
from hardpoint.contract.step import Int32s, StepPlan
from hardpoint.runner.batch import BlockTable, PersistentBatch


@dataclass(slots=True)
class StepInputs:
    """What one step's forward pass reads.

    Attributes:
        token_ids: int64[T].
        positions: int64[T].
        views: per KV group the batch as attention sees it.
        sample_index: int64[m], positions in T after which a token is sampled.
        sample_at: int32[m], plan positions of the rows that sample.
    """

    token_ids: torch.Tensor
    positions: torch.Tensor
    views: tuple[BatchView, ...]
    sample_index: torch.Tensor
    sample_at: Int32s


def prepare(plan: StepPlan, batch: PersistentBatch, block_size: int) -> StepInputs:
    """Return the inputs of ``plan`` for a batch to which it has been applied."""
    counts, computed = plan.num_tokens, plan.num_computed
    total = int(counts.sum())
    query_start = np.zeros(len(counts) + 1, np.int32)
    np.cumsum(counts, out=query_start[1:])
    # Position of a token: its row's computed tokens plus its offset in the row's chunk.
    positions = np.arange(total, dtype=np.int64) + np.repeat(computed - query_start[:-1], counts)
    seq_lens = (computed + counts).astype(np.int32)
    positions_device = batch.upload(positions)
    sample_at = np.flatnonzero(plan.samples).astype(np.int32)
    rows = batch.upload(plan.rows.astype(np.int64))
    token_rows = rows if total == len(counts) else batch.upload(np.repeat(plan.rows, counts).astype(np.int64))
    shared = _Shared(
        plan=plan,
        rows=rows,
        token_rows=token_rows,
        query_start=batch.upload(query_start),
        query_start_host=query_start,
        seq_lens=batch.upload(seq_lens),
        seq_lens_host=seq_lens,
        positions=positions_device,
        block_size=block_size,
    )
    return StepInputs(
        token_ids=_token_ids(plan, batch, rows),
        positions=positions_device,
        views=tuple(shared.view(table) for table in batch.tables),
        sample_index=batch.upload(query_start[1:][sample_at].astype(np.int64) - 1),
        sample_at=sample_at,
    )


def _token_ids(plan: StepPlan, batch: PersistentBatch, rows: torch.Tensor) -> torch.Tensor:
    decodes = plan.num_decodes
    sampled = batch.last_token[rows[:decodes]]
    if decodes == len(plan.rows):
        return sampled
    known = [
        batch.known_tokens(int(row), int(start), int(count))
        for row, start, count in zip(
            plan.rows[decodes:], plan.num_computed[decodes:], plan.num_tokens[decodes:], strict=True
        )
    ]
    return torch.cat([sampled, batch.upload(np.concatenate(known).astype(np.int64))])


@dataclass(frozen=True, slots=True)
class _Shared:
    """The part of a step's batch view that is the same for all KV groups."""

    plan: StepPlan
    rows: torch.Tensor
    token_rows: torch.Tensor
    query_start: torch.Tensor
    query_start_host: Int32s
    seq_lens: torch.Tensor
    seq_lens_host: Int32s
    positions: torch.Tensor
    block_size: int

    def view(self, table: BlockTable) -> BatchView:
        max_seq_len = int(self.seq_lens_host.max())
        width = -(-max_seq_len // self.block_size)
        column = self.positions // self.block_size
        block = table.device[self.token_rows, column].to(torch.int64)
        return BatchView(
            num_requests=len(self.plan.rows),
            num_decodes=self.plan.num_decodes,
            num_tokens=int(self.query_start_host[-1]),
            query_start=self.query_start,
            query_start_host=self.query_start_host,
            seq_lens=self.seq_lens,
            seq_lens_host=self.seq_lens_host,
            block_table=table.device[:, :width].index_select(0, self.rows),
            block_table_host=table.host[self.plan.rows, :width],
            slots=block * self.block_size + self.positions % self.block_size,
            max_query_len=int(self.plan.num_tokens.max()),
            max_seq_len=max_seq_len,
            block_size=self.block_size,
        )
