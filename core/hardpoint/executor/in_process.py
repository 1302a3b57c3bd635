"""The executor for one rank in the engine's own process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hardpoint.contract.errors import ConfigError
from hardpoint.contract.kv import KVBudget, KVPlan, KVSpec
from hardpoint.contract.runner import Pending
from hardpoint.contract.step import StepPlan
from hardpoint.executor.launch import RunnerLaunch, open_runner


class InProcessExecutor:
    """Calls a runner directly.

    Args:
        launches: one launch; this executor has one rank.

    Raises:
        ConfigError: for more than one rank.
    """

    def __init__(self, launches: tuple[RunnerLaunch, ...]) -> None:
        if len(launches) != 1:
            raise ConfigError(
                f"the in_process executor runs one rank, {len(launches)} were asked for; "
                "use --distributed-executor-backend multi_process or --tensor-parallel-size 1"
            )
        self._runner = open_runner(launches[0])

    def load(self) -> None:
        self._runner.load()

    def kv_specs(self) -> tuple[KVSpec, ...]:
        return self._runner.kv_specs()

    def block_bytes(self, spec: KVSpec, block_size: int) -> int:
        return self._runner.block_bytes(spec, block_size)

    def kv_budget(self) -> KVBudget:
        return self._runner.kv_budget()

    def start(self, kv: KVPlan) -> None:
        self._runner.start(kv)

    def submit(self, plan: StepPlan) -> Pending:
        return self._runner.step(plan)

    def check(self) -> None:
        """Nothing can die without this process."""

    def idle(self) -> bool:
        return self._runner.idle()

    def recover(self) -> str | None:
        return self._runner.recover()

    def start_profile(self) -> None:
        self._runner.start_profile()

    def stop_profile(self, path: str) -> None:
        self._runner.stop_profile(path)

    def describe(self) -> Mapping[str, Any]:
        return self._runner.describe()

    def close(self) -> None:
        self._runner.close()
