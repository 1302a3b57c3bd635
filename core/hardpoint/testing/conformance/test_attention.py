"""Every attention backend of the platform over the grid of batches, windows, heads, blocks and element types."""

from __future__ import annotations

import pytest

from hardpoint.contract.attention import AttentionBackend
from hardpoint.contract.device import Device
from hardpoint.contract.platform import Platform
from hardpoint.plugins import Catalogue
from hardpoint.testing.conformance.attention import AttentionCase, attention_cases, check_attention
from hardpoint.testing.conformance.plugin import refuse

_CASES = list(attention_cases())


@pytest.fixture(scope="module")
def backends(platform: Platform, catalogue: Catalogue) -> dict[str, AttentionBackend]:
    """The platform's, by name."""
    return {name: catalogue.create("attention_backends", name) for name in platform.attention_backends()}


@pytest.mark.parametrize("case", _CASES, ids=lambda case: case.label)
def test_backends_agree_with_dense_attention(
    case: AttentionCase, backends: dict[str, AttentionBackend], device: Device
) -> None:
    if case.dtype not in device.caps.dtypes:
        refuse(f"the device does not run in {case.dtype}")
    query = case.query(device.info.arch)
    reasons = {name: backend.reject(query) for name, backend in backends.items()}
    takers = [name for name, why in reasons.items() if not why]
    if not takers:
        refuse([f"{name}: {', '.join(why)}" for name, why in reasons.items()])
    for name in takers:
        check_attention(backends[name], device, case)


def test_a_refusal_says_why(backends: dict[str, AttentionBackend], device: Device) -> None:
    for case in _CASES:
        for backend in backends.values():
            assert all(isinstance(reason, str) and reason for reason in backend.reject(case.query(device.info.arch)))
