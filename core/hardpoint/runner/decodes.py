"""Decode-only steps, prepared once per number of rows and way to sample.

The host sends two numbers a row in one copy; the prepared step looks up tokens and blocks, runs the model, samples where
rows are plain enough, keeps the tokens for the next step and writes them where the host reads them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Hashable
from dataclasses import dataclass

import numpy as np
import torch

from hardpoint.contract.attention import AttentionPlanner, BatchView, StagedPlanner
from hardpoint.contract.device import Device, GraphSupport, StepPreparer
from hardpoint.contract.limits import BatchLimits, BatchShape
from hardpoint.contract.step import EMPTY, Int32s, StepPlan
from hardpoint.layers import CausalModel, StepContext
from hardpoint.ops import OpTable
from hardpoint.runner.batch import BlockTable, PersistentBatch
from hardpoint.runner.sampling import GREEDY, Sampler, SamplingKind
from hardpoint.runner.step_buffer import StepBuffer, StepFields

#: Steps in flight at most, one being written, and one whose results are being read.
_TURNS = 4


@dataclass(frozen=True, slots=True)
class _Key:
    """What a prepared step was prepared for; ``kind`` is ``None`` where sampling comes after it."""

    size: int
    variant: Hashable
    kind: SamplingKind | None


class PreparedDecodes:
    """Runs steps in which every row decodes, through a device's ``StepPreparer``.

    A prepared step may run several times in a row with the same effect: see :mod:`hardpoint.ops.decode`.

    Args:
        preparer: the device's.
        limits: of a step.
        device: where everything is.
        model: called with static inputs.
        planners: per KV group; all of them support prepared steps.
        batch: the persistent batch, whose device side the prepared steps read and write.
        block_size: tokens per block.
        sampler: of the same batch.
        ops: kernels.
    """

    def __init__(
        self,
        preparer: StepPreparer,
        limits: BatchLimits,
        device: Device,
        model: CausalModel,
        planners: tuple[AttentionPlanner, ...],
        batch: PersistentBatch,
        block_size: int,
        sampler: Sampler,
        ops: OpTable,
    ) -> None:
        self._preparer = preparer
        self._model = model
        self._planners = planners
        self._staged = [
            (planner, table)
            for planner, table in zip(planners, batch.tables, strict=True)
            if isinstance(planner, StagedPlanner)
        ]
        self._batch = batch
        self._block_size = block_size
        self._sampler = sampler
        self._ops = ops
        self._shapes = sorted(preparer.shapes(limits), key=lambda shape: shape.requests)
        self._sizes = [shape.requests for shape in self._shapes]
        widest, place = (self._sizes[-1] if self._sizes else 0), device.torch_device
        self._buffer = StepBuffer(widest, device, _TURNS)
        self._query_start = torch.arange(widest + 1, dtype=torch.int32, device=place)
        self._results = torch.zeros((_TURNS, widest), dtype=torch.int32, device=place)
        self._blocks = [
            torch.zeros((widest, table.host.shape[1]), dtype=torch.int32, device=place) for table in batch.tables
        ]
        self._prepared: dict[_Key, Callable[[], torch.Tensor]] = {}
        for shape in preparer.first(limits):
            self._run(shape, EMPTY, EMPTY, GREEDY)

    @staticmethod
    def of(
        device: Device,
        limits: BatchLimits,
        model: CausalModel,
        planners: tuple[AttentionPlanner, ...],
        batch: PersistentBatch,
        block_size: int,
        sampler: Sampler,
        ops: OpTable,
    ) -> PreparedDecodes | None:
        """Return prepared decodes where device and attention support them, else ``None``."""
        preparer = device.preparer()
        if preparer is None or any(planner.graphs == GraphSupport.NONE for planner in planners):
            return None
        return PreparedDecodes(preparer, limits, device, model, planners, batch, block_size, sampler, ops)

    def takes(self, plan: StepPlan) -> bool:
        """Return whether every row of ``plan`` decodes and samples, and a prepared shape holds them."""
        rows = len(plan.rows)
        return plan.num_decodes == rows and bool(self._sizes) and rows <= self._sizes[-1] and bool(plan.samples.all())

    def logits(self, plan: StepPlan) -> torch.Tensor:
        """Queue the step without sampling; return float32 [n, vocab], which holds until the next step of this size."""
        return self._run(self._shape(plan), plan.rows, plan.num_computed, None)[: len(plan.rows)]

    def tokens(self, plan: StepPlan, kind: SamplingKind) -> torch.Tensor:
        """Queue the step and keep its tokens; return them as int32[n], -1 for rows that cannot go on.

        The tensor is overwritten after ``_TURNS - 1`` further steps.
        """
        turn = self._buffer.turn
        self._run(self._shape(plan), plan.rows, plan.num_computed, kind)
        return self._results[turn, : len(plan.rows)]

    def _shape(self, plan: StepPlan) -> BatchShape:
        return self._shapes[bisect_left(self._sizes, len(plan.rows))]

    def _run(self, shape: BatchShape, rows: Int32s, computed: Int32s, kind: SamplingKind | None) -> torch.Tensor:
        size, count = shape.requests, len(rows)
        variant = tuple(planner.stage(rows, table.host, computed + 1) for planner, table in self._staged)
        host = self._buffer.host(size)
        host.turn[0] = self._buffer.turn
        host.rows[:count], host.rows[count:] = rows, self._batch.spare_row
        host.computed[:count], host.computed[count:] = computed, 0
        draws = kind is not None and kind.draws
        if draws:
            self._sampler.fill(host, rows, computed + 1)
        self._buffer.upload(size, draws=draws)
        key = _Key(size, variant, kind)
        step = self._prepared.get(key)
        if step is None:
            step = self._prepared[key] = self._preparer.prepare(lambda: self._forward(key), shape)
        return step()

    def _forward(self, key: _Key) -> torch.Tensor:
        fields = self._buffer.fields(key.size)
        variants = iter(key.variant) if isinstance(key.variant, tuple) else iter(())
        plans, slots = [], []
        for planner, table, blocks in zip(self._planners, self._batch.tables, self._blocks, strict=True):
            token_ids, positions, seq_lens, group_slots, own = self._ops.decode_inputs(
                blocks[: key.size], fields.rows, fields.computed, self._batch.newest, table.device, self._block_size
            )
            view = self._view(table, seq_lens, own, group_slots)
            if isinstance(planner, StagedPlanner):
                view.variant = next(variants)
            plans.append(planner.plan(view))
            slots.append(group_slots)
        hidden = self._model(token_ids, positions, StepContext(plans=plans, slots=slots))
        logits = self._model.logits(hidden)
        if key.kind is None:
            return logits
        return self._sample(fields, seq_lens, logits, key.kind)

    def _sample(
        self, fields: StepFields[torch.Tensor], seq_lens: torch.Tensor, logits: torch.Tensor, kind: SamplingKind
    ) -> torch.Tensor:
        tokens, best = self._sampler.choose(logits, fields, kind)
        self._ops.keep_tokens(self._batch.newest, self._results, fields.turn, fields.rows, seq_lens, tokens, best)
        return self._results

    def _view(self, table: BlockTable, seq_lens: torch.Tensor, blocks: torch.Tensor, slots: torch.Tensor) -> BatchView:
        size, width = blocks.shape
        bound = width * self._block_size
        return BatchView(
            num_requests=size,
            num_decodes=size,
            num_tokens=size,
            query_start=self._query_start[: size + 1],
            query_start_host=np.arange(size + 1, dtype=np.int32),
            seq_lens=seq_lens,
            seq_lens_host=np.full(size, bound, np.int32),
            block_table=blocks,
            block_table_host=np.zeros((size, width), np.int32),
            slots=slots,
            max_query_len=1,
            max_seq_len=bound,
            block_size=self._block_size,
        )
