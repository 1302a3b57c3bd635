"""Runners and executors: who turns a plan into tokens.

Level A backends (torch devices) use the core's :class:`hardpoint.runner.TorchRunner` over a ``Device``. Level B backends
(whole-model runtimes) implement ``Runner`` over plain numpy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hardpoint.contract.kv import KVBudget, KVPlan, KVSpec
    from hardpoint.contract.step import StepPlan, StepResult


class Pending(Protocol):
    """A submitted step."""

    def ready(self) -> bool: ...
    def result(self) -> StepResult:
        """Wait for the step; raises what the step raised."""


@runtime_checkable
class Runner(Protocol):
    """One rank of one model. Called from one thread."""

    def load(self) -> None:
        """Build the model and fill its weights."""

    def kv_specs(self) -> tuple[KVSpec, ...]:
        """Return the cache need of every attention layer, in layer order."""

    def block_bytes(self, spec: KVSpec, block_size: int) -> int:
        """Return the bytes of one block of one layer in this runner's layout."""

    def kv_budget(self) -> KVBudget: ...
    def start(self, kv: KVPlan) -> None:
        """Allocate the cache, warm up, prepare steps."""

    def step(self, plan: StepPlan) -> Pending: ...
    def describe(self) -> Mapping[str, Any]:
        """Return what was chosen: op providers, attention backends and refusals, kernels, memory; plain data."""

    def close(self) -> None: ...


@runtime_checkable
class Executor(Protocol):
    """All ranks of one model. The engine loop knows nothing else about devices."""

    def load(self) -> None: ...
    def kv_specs(self) -> tuple[KVSpec, ...]: ...
    def block_bytes(self, spec: KVSpec, block_size: int) -> int: ...
    def kv_budget(self) -> KVBudget:
        """Return the smallest budget over ranks."""

    def start(self, kv: KVPlan) -> None: ...
    def submit(self, plan: StepPlan) -> Pending:
        """Queue a step. Steps run in the order of submission; several may be in flight."""

    def check(self) -> None:
        """Raise ``WorkerDiedError`` when a rank is gone."""

    def describe(self) -> Mapping[str, Any]: ...
    def close(self) -> None: ...
