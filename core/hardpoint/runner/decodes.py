"""Decode-only steps, prepared once per number of rows and way to sample.

The host sends two numbers a row in one copy; the prepared step looks up tokens and blocks, runs the model, samples where
rows are plain enough, keeps the tokens for the next step and writes them where the host reads them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch

from hardpoint.contract.attention import AttentionPlanner, BatchView, StagedPlanner
from hardpoint.contract.device import Device, GraphSupport, StepPreparer
from hardpoint.contract.limits import BatchLimits, BatchShape
from hardpoint.contract.step import EMPTY, Int32s, StepPlan
from hardpoint.layers import CausalModel, StepContext
from hardpoint.ops import OpTable
from hardpoint.runner.batch import BlockTable, PersistentBatch
from hardpoint.runner.preparation import Preparation
from hardpoint.runner.sampling import GREEDY, Sampler, SamplingKind
from hardpoint.runner.step_buffer import StepBuffer, StepFields

log = logging.getLogger(__name__)

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
        alone: whether this is the only rank. Several must agree on what is prepared, so that none goes on without.
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
        *,
        alone: bool = True,
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
        self._sizes = sorted(shape.requests for shape in preparer.shapes(limits))
        widest, place = (self._sizes[-1] if self._sizes else 0), device.torch_device
        self._buffer = StepBuffer(widest, device, _TURNS)
        self._query_start = torch.arange(widest + 1, dtype=torch.int32, device=place)
        self._results = torch.zeros((_TURNS, widest), dtype=torch.int32, device=place)
        self._blocks = [
            torch.zeros((widest, table.host.shape[1]), dtype=torch.int32, device=place) for table in batch.tables
        ]
        self._device = device
        self._prepared: dict[_Key, Callable[[], torch.Tensor]] = {}
        self._policy = Preparation(self._sizes)
        #: Seconds that preparing took, all in all.
        self._seconds = 0.0
        self._alone, self._lenient = alone, False
        for shape in preparer.first(limits):
            self._get_ready(_Key(shape.requests, self._stage(EMPTY, EMPTY), GREEDY))
        for kind in (GREEDY, SamplingKind(full=True), SamplingKind(top_k=True)):
            self._policy.expect((self._stage(EMPTY, EMPTY), kind))
        self._lenient = alone

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
        *,
        alone: bool = True,
    ) -> PreparedDecodes | None:
        """Return prepared decodes where device and attention support them, else ``None``."""
        preparer = device.preparer()
        if preparer is None or any(planner.graphs == GraphSupport.NONE for planner in planners):
            return None
        return PreparedDecodes(preparer, limits, device, model, planners, batch, block_size, sampler, ops, alone=alone)

    def takes(self, plan: StepPlan) -> bool:
        """Return whether every row of ``plan`` decodes and samples, and a shape that can be prepared holds them."""
        rows = len(plan.rows)
        return plan.num_decodes == rows and self._policy.holds(rows) and bool(plan.samples.all())

    def logits(self, plan: StepPlan) -> torch.Tensor | None:
        """Queue the step without sampling; return logits [n, vocab], which hold until the next prepared step.

        ``None`` when the step is not prepared and shall not be now.
        """
        result = self._run(plan.rows, plan.num_computed, None)
        return None if result is None else result[: len(plan.rows)]

    def tokens(self, plan: StepPlan, kind: SamplingKind) -> torch.Tensor | None:
        """Queue the step and keep its tokens; return them as int32[n], -1 for rows that cannot go on.

        The tensor is overwritten after ``_TURNS - 1`` further steps. ``None`` as for :meth:`logits`.
        """
        turn = self._buffer.turn
        result = self._run(plan.rows, plan.num_computed, kind)
        return None if result is None else self._results[turn, : len(plan.rows)]

    def idle(self) -> bool:
        """Prepare one more step; return whether others are left."""
        wanted = self._policy.next()
        if wanted is None:
            return False
        size, kind = wanted
        assert isinstance(kind, tuple)
        variant, sampling = kind
        if self._stage(EMPTY, EMPTY) == variant:
            self._get_ready(_Key(size, variant, sampling))
        else:
            # Only rows that call for this variant can be staged for it.
            self._policy.leave(size, kind)
        return self._policy.next() is not None

    def describe(self) -> dict[str, Any]:
        """Return what is prepared, what could be, and what it took."""
        kinds = [
            {"sampling": _named(sampling), "variant": str(variant), "sizes": list(sizes)}
            for (variant, sampling), sizes in cast("Any", self._policy.ready()).items()
            if sizes
        ]
        return {"kinds": kinds, **self._policy.describe(), "seconds": round(self._seconds, 3)}

    def _stage(self, rows: Int32s, computed: Int32s) -> Hashable:
        """Let planners get ready for a step, and return its variant."""
        return tuple(planner.stage(rows, table.host, computed + 1) for planner, table in self._staged)

    def _upload(self, size: int, rows: Int32s, computed: Int32s, kind: SamplingKind | None) -> None:
        count = len(rows)
        host = self._buffer.host(size)
        host.turn[0] = self._buffer.turn
        host.rows[:count], host.rows[count:] = rows, self._batch.spare_row
        host.computed[:count], host.computed[count:] = computed, 0
        draws = kind is not None and kind.draws
        if draws:
            self._sampler.fill(host, rows, computed + 1)
        self._buffer.upload(size, draws=draws)

    def _run(self, rows: Int32s, computed: Int32s, kind: SamplingKind | None) -> torch.Tensor | None:
        variant = self._stage(rows, computed)
        choice = self._policy.choose(len(rows), (variant, kind))
        if choice is None:
            return None
        key = _Key(choice.size, variant, kind)
        self._upload(key.size, rows, computed, kind)
        if choice.prepare and not self._prepare(key):
            return None
        return self._prepared[key]()

    def _get_ready(self, key: _Key) -> None:
        """Prepare a step while nothing runs, with spare rows only."""
        self._upload(key.size, EMPTY, EMPTY, key.kind)
        self._prepare(key)

    def _prepare(self, key: _Key) -> bool:
        """Prepare a step whose inputs are staged and uploaded; ``False`` where that cannot be done.

        Not for want of memory, and after the start not for any reason that leaves the device sound, must requests suffer:
        their steps run unprepared.
        """
        began = time.perf_counter()
        shape = BatchShape(tokens=key.size, requests=key.size, decode=True)
        try:
            self._prepared[key] = self._preparer.prepare(lambda: self._forward(key), shape)
        except Exception as error:
            short = self._alone and self._device.is_oom(error)
            if not (short or (self._lenient and self._device.health() is None)):
                raise
            log.warning("decode steps of %d rows run unprepared, preparing one failed", key.size, exc_info=True)
            self._policy.refuse(key.size, (key.variant, key.kind))
        else:
            self._policy.done(key.size, (key.variant, key.kind))
        self._seconds += time.perf_counter() - began
        return key in self._prepared

    def _forward(self, key: _Key) -> torch.Tensor:
        fields = self._buffer.fields(key.size)
        variants = iter(key.variant) if isinstance(key.variant, tuple) else iter(())
        plans, slots = [], []
        for planner, table, blocks in zip(self._planners, self._batch.tables, self._blocks, strict=True):
            token_ids, positions, seq_lens, group_slots, own = self._ops.decode_inputs(
                blocks[: key.size], fields.rows, fields.computed, self._batch.newest, table.device, self._block_size
            )
            group_slots = group_slots.to(getattr(torch, table.slot_dtype))
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


def _named(kind: SamplingKind | None) -> str:
    if kind is None:
        return "afterwards"
    return " and ".join(name for name, there in (("full", kind.full), ("top-k", kind.top_k)) if there) or "greedy"
