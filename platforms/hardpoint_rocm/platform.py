"""AMD GPUs as a platform. Imports torch only in :meth:`RocmPlatform.open`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Final

from hardpoint.contract.device import Capabilities, DeviceInfo, GraphSupport
from hardpoint.contract.platform import Adjustment, ModelShape, WorkerLaunch
from hardpoint.contract.version import Version
from hardpoint_rocm import topology
from hardpoint_triton.limits import step_limits

if TYPE_CHECKING:
    from hardpoint.config import EngineConfig
    from hardpoint.contract.device import Device
    from hardpoint.contract.limits import BatchLimits

#: Architectures with bfloat16 matrix products (MFMA or WMMA).
BFLOAT16: Final = ("gfx90a", "gfx94", "gfx95", "gfx11", "gfx12")
#: Architectures whose converters read the 8-bit floats of the Open Compute Project, as checkpoints and caches store them.
#: gfx942 reads another flavour (fnuz) in hardware; its kernels convert in software.
FLOAT8: Final = ("gfx94", "gfx95", "gfx12")


class RocmPlatform:
    """The GPUs that AMD's compute driver lists."""

    name: ClassVar[str] = "rocm"
    contract: ClassVar[Version] = (1, 0)

    def probe(self) -> str | None:
        return topology.absent()

    def devices(self) -> Sequence[DeviceInfo]:
        return topology.devices()

    def capabilities(self, info: DeviceInfo) -> Capabilities:
        """Return what the architecture does."""
        wide = info.arch.startswith(BFLOAT16)
        return Capabilities(
            dtypes=frozenset({"float32", "float16"} | ({"bfloat16"} if wide else set())),
            preferred_dtype="bfloat16" if wide else "float16",
            kv_dtypes=frozenset({"float8_e4m3fn", "float8_e5m2"} if info.arch.startswith(FLOAT8) else ()),
            pinned_host=True,
            streams=True,
            asynchronous=True,
            graphs=GraphSupport.DECODE,
            collectives=frozenset({"rccl"}),
        )

    def constrain(self, model: ModelShape, config: EngineConfig) -> Sequence[Adjustment]:
        """Change nothing."""
        return ()

    def limits(self, model: ModelShape, config: EngineConfig) -> BatchLimits:
        return step_limits(self.devices()[0].total_bytes, model, config)

    def attention_backends(self) -> Sequence[str]:
        return ("triton",)

    def op_providers(self) -> Sequence[str]:
        return ("triton",)

    def linear_kernels(self) -> Sequence[str]:
        return ("triton",)

    def launch(self, config: EngineConfig) -> WorkerLaunch:
        return WorkerLaunch()

    def open(self, index: int, config: EngineConfig) -> Device:
        """Open one GPU in this process: starts its HIP context."""
        from hardpoint_rocm.device import RocmDevice

        info = next(info for info in self.devices() if info.index == index)
        return RocmDevice(info, self.capabilities(info))
