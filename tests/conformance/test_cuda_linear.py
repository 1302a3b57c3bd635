"""Linear kernels of the CUDA platform. Needs a GPU: ``pytest -m gpu tests/conformance``."""

from __future__ import annotations

import pytest
import torch

from hardpoint.testing.conformance.linear import LinearCase, check_linear, linear_cases
from hardpoint_cuda.platform import CudaPlatform

pytestmark = pytest.mark.gpu
CASES = list(linear_cases())


@pytest.fixture(scope="module")
def device() -> torch.device:
    """Return the first GPU."""
    if (reason := CudaPlatform().probe()) is not None:
        pytest.skip(reason)
    return torch.device("cuda", 0)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.label)
def test_triton_agrees_with_the_product(case: LinearCase, device: torch.device) -> None:
    from hardpoint_triton.linear import TritonLinear

    reasons = check_linear(TritonLinear(), CudaPlatform().devices()[0], device, case)
    assert not reasons


@pytest.mark.parametrize(
    ("rows", "out", "columns"), [(1, 4096, 14336), (5, 4096, 14336), (32, 6144, 4096), (16, 128, 2048)]
)
def test_equal_calls_give_equal_bits(rows: int, out: int, columns: int, device: torch.device) -> None:
    """Programs that share a tile arrive in any order; what they add up to must not depend on it."""
    from hardpoint_triton.stream import stream

    x = torch.randn(rows, columns, device=device, dtype=torch.bfloat16)
    weight = torch.randn(out, columns, device=device, dtype=torch.bfloat16)
    first = stream(x, weight)
    assert all(torch.equal(first, stream(x, weight)) for _ in range(50))
