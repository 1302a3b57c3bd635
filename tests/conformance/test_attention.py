"""Every attention backend of the platform against dense attention."""

from __future__ import annotations

import pytest

from hardpoint.config import EngineConfig
from hardpoint.testing.conformance.attention import AttentionCase, attention_cases, check_attention
from hardpoint_cpu.attention import CpuAttention
from hardpoint_cpu.platform import CpuPlatform


@pytest.fixture(scope="module")
def device():
    return CpuPlatform().open(0, EngineConfig.of(threads=1))


@pytest.mark.parametrize("case", list(attention_cases()), ids=lambda case: case.label)
def test_backend_agrees_with_dense_attention(case: AttentionCase, device) -> None:
    backend = CpuAttention()
    reasons = backend.reject(case.query(device.info.arch))
    if reasons:
        pytest.skip("; ".join(reasons))
    check_attention(backend, device, case)
