"""Every op that the platform's providers replace, over its inputs and element types, against the reference."""

from __future__ import annotations

from typing import Any

import pytest

import hardpoint.ops  # noqa: F401  fills the registry
from hardpoint.contract.device import Device
from hardpoint.contract.ops import OpProvider
from hardpoint.contract.platform import Platform
from hardpoint.ops.registry import OPS
from hardpoint.plugins import Catalogue
from hardpoint.testing.conformance.ops import check_body
from hardpoint.testing.conformance.plugin import refuse

_CASES = [(name, dtype) for name, op in sorted(OPS.items()) for dtype in op.dtypes]


@pytest.fixture(scope="module")
def providers(platform: Platform, catalogue: Catalogue) -> list[OpProvider]:
    """The platform's, in its order."""
    return [catalogue.create("ops", name) for name in platform.op_providers() if name != "reference"]


@pytest.mark.parametrize(("name", "dtype"), _CASES, ids=[f"{name}-{str(dtype)[6:]}" for name, dtype in _CASES])
def test_a_provider_agrees_with_the_reference(
    name: str, dtype: Any, providers: list[OpProvider], device: Device
) -> None:
    text = str(dtype).removeprefix("torch.")
    if text not in device.caps.dtypes and dtype.is_floating_point and text != "float32":
        refuse(f"the device does not run in {text}")
    bodies = [p.ops[name] for p in providers if name in p.ops and not p.reject(name, device.info.arch, text)]
    if not bodies:
        refuse(f"no provider has {name}: the reference runs")
    for body in bodies:
        check_body(OPS[name], body, dtype, device.torch_device)


def test_providers_offer_only_ops_that_exist(providers: list[OpProvider]) -> None:
    assert {name for provider in providers for name in provider.ops} <= set(OPS)
