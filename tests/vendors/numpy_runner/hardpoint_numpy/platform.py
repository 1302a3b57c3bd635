"""The platform ``numpy``: one imaginary device, and a runner instead of a torch device."""

from __future__ import annotations

import os
import platform as machine
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

from hardpoint.contract.device import Capabilities, DeviceInfo
from hardpoint.contract.errors import ConfigError
from hardpoint.contract.limits import BatchLimits
from hardpoint.contract.platform import Adjustment, ModelShape, WorkerLaunch

if TYPE_CHECKING:
    from hardpoint.config import EngineConfig
    from hardpoint.contract.collectives import World
    from hardpoint.contract.runner import Runner


class NumpyPlatform:
    """Runs Llama checkpoints in float32."""

    name = "numpy"
    contract = (1, 0)

    def probe(self) -> str | None:
        return None

    def devices(self) -> Sequence[DeviceInfo]:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return [
            DeviceInfo(index=0, name="numpy", uuid="", arch=machine.machine(), total_bytes=memory, unified_memory=True)
        ]

    def capabilities(self, info: DeviceInfo) -> Capabilities:
        return Capabilities(dtypes=frozenset({"float32"}), preferred_dtype="float32")

    def constrain(self, model: ModelShape, config: EngineConfig) -> Sequence[Adjustment]:
        if model.architecture != "LlamaForCausalLM" or model.windows:
            raise ConfigError(
                f"platform 'numpy' runs LlamaForCausalLM, and this model is {model.architecture}; use --platform cpu"
            )
        return []

    def limits(self, model: ModelShape, config: EngineConfig) -> BatchLimits:
        return BatchLimits(
            max_tokens=min(config.scheduler.max_num_batched_tokens or 512, 512),
            max_requests=min(config.scheduler.max_num_seqs or 16, 16),
        )

    def attention_backends(self) -> Sequence[str]:
        return ()

    def op_providers(self) -> Sequence[str]:
        return ()

    def linear_kernels(self) -> Sequence[str]:
        return ()

    def launch(self, config: EngineConfig) -> WorkerLaunch:
        return WorkerLaunch()

    def open(self, index: int, config: EngineConfig) -> NoReturn:
        raise ConfigError("platform 'numpy' has no torch device; it runs whole models")

    def runner(self, index: int, config: EngineConfig, limits: BatchLimits, world: World) -> Runner:
        from hardpoint_numpy.runner import NumpyRunner

        return NumpyRunner(config, limits)
