"""NVIDIA GPUs as a platform. Imports torch only in :meth:`CudaPlatform.open`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Final

from hardpoint.contract.device import Capabilities, DeviceInfo, GraphSupport
from hardpoint.contract.platform import Adjustment, ModelShape, WorkerLaunch
from hardpoint.contract.version import Version
from hardpoint_cuda import nvml
from hardpoint_triton.limits import step_limits

if TYPE_CHECKING:
    from hardpoint.config import EngineConfig
    from hardpoint.contract.device import Device
    from hardpoint.contract.limits import BatchLimits

FIRST_BFLOAT16: Final = 80
FIRST_FP8: Final = 89


class CudaPlatform:
    """The GPUs that NVIDIA's driver lists."""

    name: ClassVar[str] = "cuda"
    contract: ClassVar[Version] = (1, 0)

    def probe(self) -> str | None:
        return nvml.absent()

    def devices(self) -> Sequence[DeviceInfo]:
        return nvml.devices()

    def capabilities(self, info: DeviceInfo) -> Capabilities:
        """Return what the architecture does: bfloat16 from sm80, fp8 caches from sm89."""
        number = int(info.arch.removeprefix("sm"))
        dtypes = {"float32", "float16"} | ({"bfloat16"} if number >= FIRST_BFLOAT16 else set())
        return Capabilities(
            dtypes=frozenset(dtypes),
            preferred_dtype="bfloat16" if number >= FIRST_BFLOAT16 else "float16",
            kv_dtypes=frozenset({"float8_e4m3fn", "float8_e5m2"} if number >= FIRST_FP8 else ()),
            pinned_host=True,
            streams=True,
            asynchronous=True,
            graphs=GraphSupport.DECODE,
            collectives=frozenset({"nccl"}),
        )

    def constrain(self, model: ModelShape, config: EngineConfig) -> Sequence[Adjustment]:
        """Change nothing."""
        return ()

    def limits(self, model: ModelShape, config: EngineConfig) -> BatchLimits:
        return step_limits(self.devices()[0].total_bytes, model, config)

    def attention_backends(self) -> Sequence[str]:
        return ("cudnn", "triton")

    def op_providers(self) -> Sequence[str]:
        return ("triton",)

    def linear_kernels(self) -> Sequence[str]:
        return ("scaled_mm", "scaled_mm_block", "triton")

    def launch(self, config: EngineConfig) -> WorkerLaunch:
        return WorkerLaunch()

    def open(self, index: int, config: EngineConfig) -> Device:
        """Open one GPU in this process: starts its CUDA context."""
        from hardpoint_cuda.device import CudaDevice

        info = next(info for info in self.devices() if info.index == index)
        return CudaDevice(info, self.capabilities(info))
