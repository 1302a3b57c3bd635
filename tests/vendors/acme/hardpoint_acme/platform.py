"""The platform: what is known without opening the device, and what it cannot do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from hardpoint.contract.device import Capabilities, DeviceInfo
from hardpoint.contract.errors import ConfigError
from hardpoint.contract.limits import BatchLimits, BatchShape
from hardpoint.contract.platform import Adjustment, ModelShape, WorkerLaunch
from hardpoint_acme import driver

if TYPE_CHECKING:
    from hardpoint.config import EngineConfig
    from hardpoint_acme.device import AcmeDevice

BLOCK_SIZE: Final = 24
PREFILLS: Final = (32, 128)
DECODES: Final = (1, 4, 8)


class AcmePlatform:
    """One Acme N1."""

    name = "acme"
    contract = (1, 0)

    def probe(self) -> str | None:
        return None if driver.present() else "no N1 is plugged in"

    def devices(self) -> Sequence[DeviceInfo]:
        return [
            DeviceInfo(index=i, name="Acme N1", uuid=f"n1-{i}", arch="n1", total_bytes=driver.MEMORY) for i in range(2)
        ]

    def capabilities(self, info: DeviceInfo) -> Capabilities:
        return Capabilities(
            dtypes=frozenset({"bfloat16"}),
            preferred_dtype="bfloat16",
            static_shapes=True,
            collectives=frozenset({"ring"}),
        )

    def constrain(self, model: ModelShape, config: EngineConfig) -> Sequence[Adjustment]:
        if model.head_size % 8:
            raise ConfigError(
                f"the N1 reads heads of a multiple of 8 elements, and this model's have {model.head_size}"
            )
        wanted = config.parallel.executor
        if wanted == "multi_process":
            return []
        reason = "the N1's driver is opened in worker processes only"
        return [Adjustment(field="parallel.executor", value="multi_process", reason=reason)]

    def limits(self, model: ModelShape, config: EngineConfig) -> BatchLimits:
        prefills = tuple(BatchShape(tokens=tokens, requests=1) for tokens in PREFILLS)
        decodes = tuple(BatchShape(tokens=rows, requests=rows, decode=True) for rows in DECODES)
        return BatchLimits(
            max_tokens=PREFILLS[-1],
            max_requests=DECODES[-1],
            mix_prefill_decode=False,
            max_prefills=1,
            shapes=prefills + decodes,
        )

    def attention_backends(self) -> Sequence[str]:
        return ("acme",)

    def op_providers(self) -> Sequence[str]:
        return ("acme",)

    def linear_kernels(self) -> Sequence[str]:
        return ("acme_int8", "acme")

    def launch(self, config: EngineConfig) -> WorkerLaunch:
        return WorkerLaunch(env={driver.WORKER: "1"}, start_method="spawn", threads=1)

    def open(self, index: int, config: EngineConfig) -> AcmeDevice:
        from hardpoint_acme.device import AcmeDevice

        info = self.devices()[index]
        return AcmeDevice(info, self.capabilities(info), frozenset(PREFILLS + DECODES))
