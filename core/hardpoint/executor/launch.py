"""What a rank needs to come up, as data that can cross a process border, and how it comes up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from hardpoint.config import EngineConfig
from hardpoint.contract.collectives import World
from hardpoint.contract.limits import BatchLimits
from hardpoint.contract.platform import Platform, RunnerPlatform
from hardpoint.contract.runner import Runner
from hardpoint.plugins import Catalogue, Selection


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerLaunch:
    """One rank's orders.

    Attributes:
        config: after all adjustments: every ``auto`` that can be decided without a device is decided.
        limits: bounds on a step.
        world: the rank's place.
        device_index: which of the platform's devices is its own.
        selection: the plugins that the parent chose; a worker loads exactly these.
    """

    config: EngineConfig
    limits: BatchLimits
    world: World
    device_index: int
    selection: tuple[Selection, ...] = ()


def open_runner(launch: RunnerLaunch) -> Runner:
    """Open the rank's device and return its runner, not loaded yet.

    Raises:
        PluginError: when a plugin differs from the one that the parent selected, or cannot be used.
    """
    catalogue = Catalogue.of(launch.config.plugins)
    if launch.selection:
        catalogue.enforce(launch.selection)
    platform = cast("Platform", catalogue.create("platforms", launch.config.platform.platform))
    if isinstance(platform, RunnerPlatform):
        return platform.runner(launch.device_index, launch.config, launch.limits, launch.world)
    from hardpoint.runner.runner import TorchRunner

    device = platform.open(launch.device_index, launch.config)
    return TorchRunner(launch, catalogue, platform, device)
