"""Linear kernels of the CUDA platform. Needs a GPU: ``pytest -m gpu tests/conformance``."""

from __future__ import annotations

import pytest
import torch

from hardpoint.testing.conformance.linear import LinearCase, check_linear, linear_cases
from hardpoint_cuda.platform import CudaPlatform

pytest.importorskip("triton")

from hardpoint_cuda.linear import CudaLinear
from hardpoint_triton.linear import TritonLinear

pytestmark = pytest.mark.gpu
CASES = list(linear_cases())


@pytest.fixture(scope="module")
def device() -> torch.device:
    """Return the first GPU."""
    if (reason := CudaPlatform().probe()) is not None:
        pytest.skip(reason)
    return torch.device("cuda", 0)


@pytest.fixture(params=["triton", "cuda"])
def kernel(request: pytest.FixtureRequest) -> TritonLinear:
    return CudaLinear() if request.param == "cuda" else TritonLinear()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.label)
def test_kernel_agrees_with_the_product(case: LinearCase, kernel: TritonLinear, device: torch.device) -> None:
    assert not check_linear(kernel, CudaPlatform().devices()[0], device, case)


@pytest.mark.parametrize(
    ("rows", "out", "columns"), [(1, 4096, 14336), (5, 4096, 14336), (32, 6144, 4096), (16, 128, 2048), (9, 24, 3072)]
)
def test_large_products_are_right_and_equal_calls_give_equal_bits(
    rows: int, out: int, columns: int, kernel: TritonLinear, device: torch.device
) -> None:
    """Programs that share a tile arrive in any order; what they add up to must not depend on it."""
    x = torch.randn(rows, columns, device=device, dtype=torch.bfloat16)
    weight = torch.randn(out, columns, device=device, dtype=torch.bfloat16)
    first = kernel.stream(x, weight)
    expected = x.double() @ weight.double().T
    assert (first.double() - expected).norm() / expected.norm() < 4e-3
    assert all(torch.equal(first, kernel.stream(x, weight)) for _ in range(50))


@pytest.mark.parametrize("rows", [1, 5, 16, 32])
def test_eight_bit_weights_with_scales(rows: int, kernel: TritonLinear, device: torch.device) -> None:
    x = torch.randn(rows, 2048, device=device).to(torch.float8_e4m3fn)
    weight = torch.randn(1024, 2048, device=device).to(torch.float8_e4m3fn)
    factors, x_scale = torch.rand(1024, device=device) + 0.5, torch.rand(rows, device=device) + 0.5
    y = (x.double() * x_scale[:, None].double()) @ (weight.double() * factors[:, None].double()).T
    expected = torch.nn.functional.silu(y[:, :512]) * y[:, 512:]
    actual = kernel.stream(
        x, weight, weight_scale=factors, x_scale=x_scale, activation="silu_mul", out_dtype=torch.bfloat16
    )
    assert (actual.double() - expected).norm() / expected.norm() < 6e-3
