"""Two ranks on two devices: every collective, and a collective inside a prepared step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hardpoint.testing.conformance.collectives import check_platform
from hardpoint.testing.conformance.plugin import refuse

if TYPE_CHECKING:
    from hardpoint.config import EngineConfig
    from hardpoint.contract.device import Capabilities
    from hardpoint.contract.platform import Platform


def test_two_ranks_work_together(platform: Platform, caps: Capabilities, config: EngineConfig) -> None:
    if not caps.collectives:
        refuse("the device works alone")
    if len(platform.devices()) < 2:
        refuse("this machine has one device")
    check_platform(config, 2)
