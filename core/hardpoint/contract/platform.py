"""A platform: describe, probe, open.

Describing is data (the descriptor). Probing happens in the parent process and must not start the device's runtime.
Opening happens in the worker only.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hardpoint.config import EngineConfig
    from hardpoint.contract.collectives import World
    from hardpoint.contract.device import Capabilities, Device, DeviceInfo
    from hardpoint.contract.limits import BatchLimits
    from hardpoint.contract.runner import Runner
    from hardpoint.contract.version import Version


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """What a platform may know about a model before anything is built.

    Attributes:
        architecture: e.g. ``"LlamaForCausalLM"``.
        num_layers, hidden_size, num_heads, num_kv_heads, head_size, vocab_size: of the whole model.
        context: longest sequence that the model was made for, in tokens.
        windows: distinct sliding windows of its layers.
        dtype: the checkpoint's element type.
        num_experts: 0 for a dense model.
    """

    architecture: str
    num_layers: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_size: int
    vocab_size: int
    context: int
    dtype: str
    windows: tuple[int, ...] = ()
    num_experts: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Adjustment:
    """A setting that a plugin asks the core to change, e.g. ``("cache.block_size", 64, "the kernel reads 64 rows")``."""

    field: str
    value: Any
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerLaunch:
    """How worker processes are started.

    Attributes:
        env: environment variables of the worker process, set before it starts.
        start_method: ``"spawn"`` or ``"fork"``.
        threads: intra-op threads of each worker, ``None`` to leave them alone.
        affinity: per local rank, the cores to which the worker is bound; empty to leave it alone.
    """

    env: Mapping[str, str] = field(default_factory=dict)
    start_method: str = "spawn"
    threads: int | None = None
    affinity: tuple[tuple[int, ...], ...] = ()


@runtime_checkable
class Platform(Protocol):
    """What a hardware vendor implements first. Instances are cheap; only ``open`` touches the device's runtime.

    Made without arguments. ``data["fallback"]`` of its descriptor is true for one that runs on any machine: with
    ``--platform auto`` it comes after all others, with a warning when one of them is broken. A platform's ``requires``
    should be empty: ``probe`` can say what is missing, and whether there is a device that would need it.
    """

    name: ClassVar[str]
    contract: ClassVar[Version]

    def probe(self) -> str | None:
        """Return ``None`` if this machine has a usable device, else why not. Never starts a driver context."""

    def devices(self) -> Sequence[DeviceInfo]: ...
    def capabilities(self, info: DeviceInfo) -> Capabilities: ...
    def constrain(self, model: ModelShape, config: EngineConfig) -> Sequence[Adjustment]:
        """Return the settings that must change; raise ``ConfigError`` for what cannot run at all."""

    def limits(self, model: ModelShape, config: EngineConfig) -> BatchLimits: ...
    def attention_backends(self) -> Sequence[str]:
        """Return names of attention backends in order of preference."""

    def op_providers(self) -> Sequence[str]:
        """Return names of op providers (entry points of kind ``ops``) in order of preference."""

    def linear_kernels(self) -> Sequence[str]:
        """Return names of linear kernels in order of preference."""

    def launch(self, config: EngineConfig) -> WorkerLaunch: ...
    def open(self, index: int, config: EngineConfig) -> Device: ...


@runtime_checkable
class RunnerPlatform(Platform, Protocol):
    """A platform that runs whole models itself: the core asks it for a runner and opens no device.

    Its devices, capabilities, limits and adjustments count as any other's; attention backends, op providers and linear
    kernels are asked for by the core's runner only.
    """

    def runner(self, index: int, config: EngineConfig, limits: BatchLimits, world: World) -> Runner:
        """Return the runner of one rank, not loaded yet. Called in the rank's process.

        Args:
            index: of the device.
            config: after all adjustments.
            limits: bounds on a step; ``max_requests`` is the number of rows.
            world: the rank's place among those of one model.
        """
