"""The processor as a platform. Imports torch only in :meth:`CpuPlatform.open`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Final

import psutil

from hardpoint.contract.device import Capabilities, DeviceInfo
from hardpoint.contract.limits import BatchLimits
from hardpoint.contract.platform import Adjustment, ModelShape, WorkerLaunch
from hardpoint.contract.version import Version
from hardpoint_cpu.cgroup import memory_limits
from hardpoint_cpu.machine import machine, split_cores, usable_cores

if TYPE_CHECKING:
    from hardpoint.config import EngineConfig
    from hardpoint.contract.device import Device

#: Products run at full rate from about 512 rows; a longer step would only keep running requests waiting.
STEP_TOKENS: Final = 512


class CpuPlatform:
    """One machine's processor. A device is one core's worth of it, so that as many ranks fit as there are cores."""

    name: ClassVar[str] = "cpu"
    contract: ClassVar[Version] = (1, 0)

    def probe(self) -> str | None:
        """Return ``None``: every machine has a processor."""
        return None

    def devices(self) -> Sequence[DeviceInfo]:
        """Return one device per usable core; they share the machine's memory."""
        found, total = machine(), total_bytes()
        cores = usable_cores()
        return tuple(
            DeviceInfo(
                index=index,
                name=found.name,
                uuid="",
                arch=found.arch,
                total_bytes=total,
                unified_memory=True,
                compute_units=len(cores),
            )
            for index in range(len(cores))
        )

    def capabilities(self, info: DeviceInfo) -> Capabilities:
        """Return what every processor does in PyTorch; a checkpoint's own type is kept, fast or not."""
        dtypes = frozenset({"float32", "bfloat16", "float16"})
        return Capabilities(dtypes=dtypes, preferred_dtype="float32", kv_dtypes=dtypes, collectives=frozenset({"gloo"}))

    def constrain(self, model: ModelShape, config: EngineConfig) -> Sequence[Adjustment]:
        """Return the number of threads, where the user gave none or more than there are cores."""
        share = min(len(cores) for cores in self._shares(config))
        threads = config.platform.threads
        if threads is None:
            return [Adjustment(field="platform.threads", value=share, reason="one per core that a rank may use")]
        if threads > share:
            reason = f"a rank may use {share} cores; more threads would wait for each other"
            return [Adjustment(field="platform.threads", value=share, reason=reason)]
        return []

    def limits(self, model: ModelShape, config: EngineConfig) -> BatchLimits:
        scheduler = config.scheduler
        tokens = scheduler.max_num_batched_tokens
        if tokens is None:
            whole_prompt = 0 if scheduler.enable_chunked_prefill else config.model.max_model_len or model.context
            tokens = max(STEP_TOKENS, scheduler.max_num_seqs, whole_prompt)
        return BatchLimits(max_tokens=tokens, max_requests=min(scheduler.max_num_seqs, tokens))

    def attention_backends(self) -> Sequence[str]:
        return ("cpu",)

    def op_providers(self) -> Sequence[str]:
        return ("cpu",)

    def linear_kernels(self) -> Sequence[str]:
        return ("onednn",)

    def launch(self, config: EngineConfig) -> WorkerLaunch:
        """Return one share of the cores per rank."""
        return WorkerLaunch(threads=config.platform.threads, affinity=self._shares(config))

    def open(self, index: int, config: EngineConfig) -> Device:
        """Open the processor in this process: sets the number of PyTorch's threads."""
        from hardpoint_cpu.device import CpuDevice

        info = next((info for info in self.devices() if info.index == index), None)
        if info is None:
            # A worker bound to its own cores counts fewer of them than its parent did.
            info = self.devices()[0]
        ranks = config.parallel.tensor_parallel_size
        threads = config.platform.threads or min(len(cores) for cores in self._shares(config))
        return CpuDevice(info, self.capabilities(info), threads=threads, ranks=ranks)

    def _shares(self, config: EngineConfig) -> tuple[tuple[int, ...], ...]:
        return split_cores(usable_cores(), config.parallel.tensor_parallel_size)


def total_bytes() -> int:
    """Return the machine's memory, or what the container allows of it."""
    return min([int(psutil.virtual_memory().total), *(limit.limit for limit in memory_limits())])
