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
    def idle(self) -> bool:
        """Use a moment without work for what makes later steps faster; return whether there is more of it to do."""

    def recover(self) -> str | None:
        """After a step that raised: forget all rows and steps in flight. Return why work cannot go on, or ``None``."""

    def start_profile(self) -> None:
        """Begin to record what runs on the device."""

    def stop_profile(self, path: str) -> None:
        """End it and write a Chrome trace; its ``baseTimeNanoseconds`` is a time of the Unix clock."""

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

    def idle(self) -> bool:
        """As :meth:`Runner.idle`, on every rank. Called while no step is in flight."""

    def recover(self) -> str | None:
        """As :meth:`Runner.recover`. Steps submitted before are forgotten; every row is free afterwards."""

    def start_profile(self) -> None:
        """As :meth:`Runner.start_profile`, on every rank."""

    def stop_profile(self, path: str) -> None:
        """Write rank 0's trace to ``path``; every other rank's goes beside it, with ``.rankN`` before the suffix."""

    def describe(self) -> Mapping[str, Any]: ...
    def close(self) -> None: ...
