"""Decode-only steps, prepared once per number of rows: the host sends two numbers a row and the device does the rest."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable

import numpy as np
import torch

from hardpoint.contract.attention import AttentionPlanner, BatchView
from hardpoint.contract.device import Device, GraphSupport, StepPreparer
from hardpoint.contract.limits import BatchLimits, BatchShape
from hardpoint.contract.step import StepPlan
from hardpoint.layers import CausalModel, StepContext
from hardpoint.runner.batch import BlockTable, PersistentBatch

#: Steps in flight at most, and one being written.
_STAGES = 3


class PreparedDecodes:
    """Runs steps in which every row decodes, through a device's ``StepPreparer``.

    Args:
        preparer: the device's.
        limits: of a step.
        model: called with static inputs.
        planners: per KV group; all of them support prepared steps.
        batch: the persistent batch, whose device side the prepared steps read.
        block_size: tokens per block.
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
    ) -> None:
        self._preparer = preparer
        self._model = model
        self._planners = planners
        self._batch = batch
        self._block_size = block_size
        self._shapes = sorted(preparer.shapes(limits), key=lambda shape: shape.requests)
        self._sizes = [shape.requests for shape in self._shapes]
        widest = self._sizes[-1] if self._sizes else 0
        self._staging = device.staging((2 * widest,), "int32", depth=_STAGES)
        self._inputs = torch.zeros(2 * widest, dtype=torch.int32, device=device.torch_device)
        self._query_start = torch.arange(widest + 1, dtype=torch.int32, device=device.torch_device)
        self._prepared: dict[int, Callable[[], torch.Tensor]] = {}
        for shape in preparer.first(limits):
            self._stage(np.empty(0, np.int32), np.empty(0, np.int32), shape.requests)
            self._step(shape)()

    @staticmethod
    def of(
        device: Device,
        limits: BatchLimits,
        model: CausalModel,
        planners: tuple[AttentionPlanner, ...],
        batch: PersistentBatch,
        block_size: int,
    ) -> PreparedDecodes | None:
        """Return prepared decodes where device and attention support them, else ``None``."""
        preparer = device.preparer()
        if preparer is None or any(planner.graphs == GraphSupport.NONE for planner in planners):
            return None
        return PreparedDecodes(preparer, limits, device, model, planners, batch, block_size)

    def takes(self, plan: StepPlan) -> bool:
        """Return whether every row of ``plan`` decodes and samples, and a prepared shape holds them."""
        rows = len(plan.rows)
        return plan.num_decodes == rows and bool(self._sizes) and rows <= self._sizes[-1] and bool(plan.samples.all())

    def run(self, plan: StepPlan) -> torch.Tensor:
        """Queue the step and return its logits, float32 [n, vocab]; they hold until the next step of this size."""
        shape = self._shapes[bisect_left(self._sizes, len(plan.rows))]
        self._stage(plan.rows, plan.num_computed, shape.requests)
        return self._step(shape)()[: len(plan.rows)]

    def _stage(self, rows: np.ndarray, computed: np.ndarray, size: int) -> None:
        host = self._staging.host
        host[:size] = self._batch.spare_row
        host[: len(rows)] = rows
        host[size : 2 * size] = 0
        host[size : size + len(rows)] = computed
        self._inputs[: 2 * size].copy_(self._staging.upload(2 * size))

    def _step(self, shape: BatchShape) -> Callable[[], torch.Tensor]:
        size = shape.requests
        if size not in self._prepared:
            self._prepared[size] = self._preparer.prepare(lambda: self._forward(size), shape)
        return self._prepared[size]

    def _forward(self, size: int) -> torch.Tensor:
        rows, computed = self._inputs[:size].to(torch.int64), self._inputs[size : 2 * size]
        positions = computed.to(torch.int64)
        views = [self._view(table, rows, positions, computed + 1) for table in self._batch.tables]
        context = StepContext(
            plans=[planner.plan(view) for planner, view in zip(self._planners, views, strict=True)],
            slots=[view.slots for view in views],
        )
        hidden = self._model(self._batch.last_token.index_select(0, rows), positions, context)
        return self._model.logits(hidden)

    def _view(
        self, table: BlockTable, rows: torch.Tensor, positions: torch.Tensor, seq_lens: torch.Tensor
    ) -> BatchView:
        size, bound = len(rows), table.host.shape[1] * self._block_size
        blocks = table.device.index_select(0, rows)
        column = (positions // self._block_size).unsqueeze(1)
        block = blocks.gather(1, column).squeeze(1).to(torch.int64)
        return BatchView(
            num_requests=size,
            num_decodes=size,
            num_tokens=size,
            query_start=self._query_start[: size + 1],
            query_start_host=np.arange(size + 1, dtype=np.int32),
            seq_lens=seq_lens,
            seq_lens_host=np.full(size, bound, np.int32),
            block_table=blocks,
            block_table_host=np.zeros((size, table.host.shape[1]), np.int32),
            slots=block * self._block_size + positions % self._block_size,
            max_query_len=1,
            max_seq_len=bound,
            block_size=self._block_size,
        )
