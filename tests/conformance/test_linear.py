"""The platform's dense linear kernels against the product in float64."""

from __future__ import annotations

import pytest
import torch

from hardpoint.contract.quant import DENSE, LinearKernel, LinearScheme
from hardpoint_cpu.linear import OneDnnLinear
from hardpoint_cpu.platform import CpuPlatform

INFO = CpuPlatform().devices()[0]
TOLERANCE = {"float32": 1e-5, "bfloat16": 1e-2, "float16": 2e-3}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("rows_out", "columns"), [(3, 64), (17, 33), (48, 1024), (1000, 80)])
def test_kernel_agrees_with_the_product(dtype: str, rows_out: int, columns: int) -> None:
    kernel = OneDnnLinear()
    assert isinstance(kernel, LinearKernel)
    if reasons := kernel.reject(DENSE, rows_out, columns, dtype, INFO):
        pytest.skip("; ".join(reasons))
    element = getattr(torch, dtype)
    weight, bias = torch.randn(rows_out, columns).to(element), torch.randn(rows_out).to(element)
    packed = kernel.pack({"weight": weight})
    for tokens in (0, 1, 2, 3, 4, 5, 19):
        # A view with gaps between its rows, as a slice of a fused projection is.
        x = torch.randn(tokens, columns + 7).to(element)[:, 3 : 3 + columns]
        for b in (None, bias):
            actual = kernel.apply(x, packed, b)
            expected = x.double() @ weight.double().T + (0 if b is None else b.double())
            assert actual.dtype == element
            scale = expected.abs().max().item() if tokens else 1.0
            torch.testing.assert_close(actual.double(), expected, atol=TOLERANCE[dtype] * scale, rtol=0)


def test_refusals_name_the_scheme_and_the_type() -> None:
    kernel = OneDnnLinear()
    assert kernel.reject(DENSE, 8, 8, "float32", INFO) == []
    assert "int8" in kernel.reject(LinearScheme(weight="int8"), 8, 8, "float32", INFO)[0]
    assert "float64" in kernel.reject(DENSE, 8, 8, "float64", INFO)[0]


def test_a_row_gives_the_same_in_any_company_up_to_rounding() -> None:
    kernel = OneDnnLinear()
    packed = kernel.pack({"weight": torch.randn(96, 256)})
    x = torch.randn(16, 256)
    alone = torch.cat([kernel.apply(x[i : i + 1], packed, None) for i in range(16)])
    torch.testing.assert_close(kernel.apply(x, packed, None), alone, rtol=1e-5, atol=1e-4)
