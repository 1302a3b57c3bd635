"""Steps that do not fit the device's memory are run in parts; a request fails only if its smallest part does not fit."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from hardpoint.contract.device import Device
from hardpoint.contract.runner import Pending
from hardpoint.contract.step import StepPlan, StepResult
from hardpoint.runner.batch import BlockTable
from hardpoint.runner.splitting import Part, join, split, whole

log = logging.getLogger(__name__)

#: A part of one row is not cut below this many tokens: less would free next to nothing.
_LEAST_TOKENS: Final = 16
#: Steps after which a larger one is tried again.
_PATIENCE: Final = 64


class Shortage:
    """Runs steps, in parts where memory is short.

    What failed once is not tried again in each step: for a while, steps are cut to what fitted.

    Args:
        device: says whether an error means that memory ran out, and gives cached memory back.
        run: runs a plan whose rows have been started.
        tables: per KV group the block tables, to find who reads what a row that failed did not write.
        block_size: tokens per block.
        max_tokens: of a step.
    """

    def __init__(
        self,
        device: Device,
        run: Callable[[StepPlan], Pending],
        tables: Sequence[BlockTable],
        *,
        block_size: int,
        max_tokens: int,
    ) -> None:
        self._device = device
        self._run = run
        self._tables = tables
        self._block_size = block_size
        self._max_tokens = max_tokens
        self._most: int | None = None
        self._since = 0
        #: Steps that were run in parts.
        self.divided = 0

    def run(self, plan: StepPlan) -> Pending:
        """Run a plan; what does not fit in parts either is told as the failure of its row."""
        if self._most is not None:
            self._since += 1
            if self._since > _PATIENCE:
                self._most, self._since = (2 * self._most if self._most < self._max_tokens else None), 0
        total = plan.total_tokens
        if self._most is None or total <= self._most:
            pending = self._try(plan)
            if pending is not None:
                return pending
            self._lower(total)
        self.divided += 1
        return self._in_parts(plan, self._most or total)

    def _lower(self, tokens: int) -> None:
        half = max(1, tokens // 2)
        self._since = 0
        if self._most is not None and self._most <= half:
            return
        self._most = half
        log.warning(
            "device memory ran out in a step of %d tokens; steps are run in parts of at most %d tokens for now. Lower "
            "--max-num-batched-tokens or --memory-fraction if this goes on",
            tokens,
            self._most,
        )

    def _try(self, plan: StepPlan) -> Pending | None:
        """Return the step under way, ``None`` if memory ran out."""
        try:
            return self._run(plan)
        except Exception as error:
            if not self._device.is_oom(error):
                raise
        # Only here, where the error and the frames that it held are gone, is their memory free.
        self._device.trim()
        return None

    def _in_parts(self, plan: StepPlan, most: int) -> Pending:
        waiting = deque(split(whole(plan), most))
        done: list[tuple[Part, Pending]] = []
        failures: dict[int, str] = {}
        while waiting:
            part = waiting.popleft().without(set(failures))
            if part is None:
                continue
            pending = self._try(part.plan)
            if pending is not None:
                done.append((part, pending))
                continue
            tokens = part.plan.total_tokens
            if len(part.plan.rows) > 1 or tokens > _LEAST_TOKENS:
                self._lower(tokens)
                waiting.extendleft(reversed(split(part, max(1, tokens // 2))))
                continue
            failed = int(part.at[0])
            failures[failed] = (
                f"the device's memory does not hold a step of {tokens} tokens of this request; "
                "lower --memory-fraction or --kv-cache-memory to leave more of it for steps"
            )
            for reader in self._readers(plan, failed, int(part.plan.num_computed[0])):
                failures.setdefault(reader, "it begins like a request that did not fit the device's memory")
        return _Parts(plan, done, failures)

    def _readers(self, plan: StepPlan, failed: int, first: int) -> list[int]:
        """Return positions of other rows that read blocks which row ``failed`` was to write from token ``first`` on."""
        size, row = self._block_size, int(plan.rows[failed])
        end = int(plan.num_computed[failed] + plan.num_tokens[failed])
        found = []
        for at, other in enumerate(plan.rows.tolist()):
            known = -(-int(plan.num_computed[at]) // size)
            if at != failed and any(
                np.isin(table.host[row, first // size : -(-end // size)], table.host[other, :known]).any()
                for table in self._tables
            ):
                found.append(at)
        return found


class _Parts:
    """The parts of a step under way."""

    def __init__(self, plan: StepPlan, parts: list[tuple[Part, Pending]], failures: dict[int, str]) -> None:
        self._plan = plan
        self._parts = parts
        self._failures = failures

    def ready(self) -> bool:
        return all(pending.ready() for _part, pending in self._parts)

    def result(self) -> StepResult:
        """Wait for all parts and return the whole step's result."""
        return join(self._plan, [(part, pending.result()) for part, pending in self._parts], self._failures)
