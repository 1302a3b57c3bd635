"""Every op that a provider of the platform offers, against the reference."""

from __future__ import annotations

import pytest
import torch

from hardpoint.config import EngineConfig
from hardpoint.ops import OPS
from hardpoint.plugins import Catalogue
from hardpoint.testing.conformance.ops import check_body
from hardpoint_cpu.platform import CpuPlatform


def _offered():
    platform, catalogue = CpuPlatform(), Catalogue.of(EngineConfig().plugins)
    arch = platform.devices()[0].arch
    for name in platform.op_providers():
        provider = catalogue.create("ops", name)
        for op_name, body in provider.ops.items():
            for dtype in OPS[op_name].dtypes:
                if not provider.reject(op_name, arch, str(dtype).removeprefix("torch.")):
                    yield pytest.param(OPS[op_name], body, dtype, id=f"{name}-{op_name}-{dtype}")


@pytest.mark.parametrize(("op", "body", "dtype"), list(_offered()))
def test_provider_agrees_with_reference(op, body, dtype) -> None:
    check_body(op, body, dtype, torch.device("cpu"))
