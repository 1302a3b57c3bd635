"""From a plan to what a forward pass reads: token ids, positions, slots, and each KV group's view of the batch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from hardpoint.contract.attention import BatchView
from hardpoint.contract.step import Int32s, StepPlan
from hardpoint.runner.batch import PersistentBatch


@dataclass(slots=True)
class StepInputs:
    """What one step's forward pass reads.

    Attributes:
        token_ids: int64[P], the step's T tokens and padding.
        positions: int64[P].
        views: per KV group the batch as attention sees it.
        sample_index: int64[m], positions in T after which a token is sampled.
        sample_at: int32[m], plan positions of the rows that sample.
    """

    token_ids: torch.Tensor
    positions: torch.Tensor
    views: tuple[BatchView, ...]
    sample_index: torch.Tensor
    sample_at: Int32s


def prepare(plan: StepPlan, batch: PersistentBatch, block_size: int, padded: int = 0) -> StepInputs:
    """Return the inputs of ``plan`` for a batch to which it has been applied, with at least ``padded`` tokens.

    What the host knows crosses in one copy: ids, positions, slots, lengths. The device adds tokens that it sampled itself.
    """
    counts, computed = plan.num_tokens, plan.num_computed
    query_start = np.zeros(len(counts) + 1, np.int32)
    np.cumsum(counts, out=query_start[1:])
    total, decodes = int(query_start[-1]), plan.num_decodes
    # Position of a token: its row's computed tokens plus its offset in the row's chunk.
    positions = np.arange(total, dtype=np.int64) + np.repeat(computed - query_start[:-1], counts)
    seq_lens = (computed + counts).astype(np.int32)
    sample_at = np.flatnonzero(plan.samples).astype(np.int32)
    token_rows = np.repeat(plan.rows, counts)
    column, offset = np.divmod(positions, block_size)
    slots = [
        (table.host[token_rows, column] * np.int64(block_size) + offset).astype(table.slot_dtype, copy=False)
        for table in batch.tables
    ]
    token_ids = np.zeros(max(total, padded), np.int64)
    if padded > total:
        positions = np.pad(positions, (0, padded - total))
        slots = [np.pad(own, (0, padded - total)) for own in slots]
    for row, start, count, first in zip(
        plan.rows[decodes:], computed[decodes:], counts[decodes:], query_start[decodes:], strict=False
    ):
        token_ids[first : first + count] = batch.known_tokens(int(row), int(start), int(count))
    newest = plan.rows[:decodes].astype(np.int64) * 2 + computed[:decodes] % 2
    ids, positions_there, rows, starts, lengths, sample_index, newest_there, *slots_there = batch.upload.together(
        token_ids,
        positions,
        plan.rows,
        query_start,
        seq_lens,
        query_start[1:][sample_at].astype(np.int64) - 1,
        newest,
        *slots,
    )
    if decodes:
        torch.index_select(batch.newest.view(-1), 0, newest_there, out=ids[:decodes])
    longest = int(seq_lens.max())
    width = -(-longest // block_size)
    views = tuple(
        BatchView(
            num_requests=len(counts),
            num_decodes=decodes,
            num_tokens=total,
            query_start=starts,
            query_start_host=query_start,
            seq_lens=lengths,
            seq_lens_host=seq_lens,
            block_table=table.device[:, :width].index_select(0, rows),
            block_table_host=table.host[plan.rows, :width],
            slots=slots_of_group,
            max_query_len=int(counts.max()),
            max_seq_len=longest,
            block_size=block_size,
        )
        for table, slots_of_group in zip(batch.tables, slots_there, strict=True)
    )
    return StepInputs(
        token_ids=ids, positions=positions_there, views=views, sample_index=sample_index, sample_at=sample_at
    )
