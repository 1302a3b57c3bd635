"""The streaming linear kernels in Triton's interpreter: no GPU needed. The GPU runs all types in ``test_cuda_linear.py``."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from hardpoint.contract.quant import DENSE, FusedLinearKernel, LinearScheme
from hardpoint.testing.conformance.linear import LinearCase, check_linear, linear_cases
from hardpoint_cpu.platform import CpuPlatform

triton = pytest.importorskip("triton")
if not triton.knobs.runtime.interpret:
    pytest.skip("Triton compiles in this run", allow_module_level=True)

from hardpoint_triton import linear, stream  # noqa: E402

INFO = replace(CpuPlatform().devices()[0], arch="sm90")
CPU = torch.device("cpu")
#: float32 everywhere; what goes through the matrix units in 16 bits differs only in rounding.
CASES = [
    case
    for case in linear_cases(("float32", "float16"))
    if case.bias == (case.out_features != 96)
    and case.out_features < 1000
    and (case.dtype == "float32" or "all" in case.label)
]


@pytest.fixture(autouse=True)
def streams_all_types(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "STREAMED_ROWS", dict.fromkeys(linear.STREAMED_ROWS, stream.MOST_ROWS))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.label)
def test_kernel_agrees_with_the_product(case: LinearCase) -> None:
    assert not check_linear(linear.TritonLinear(), INFO, CPU, case, rows=(0, 1, 17))


@pytest.mark.parametrize("label", ["float32-130x520-plain", "float32-130x520-all-bias"])
def test_programs_that_share_a_tile_leave_the_counters_as_they_were(
    label: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "few_rows_tile", lambda *_: stream.Tile(64, 64, split=3, stages=2))
    case = next(case for case in linear_cases(("float32",)) if case.label == label)
    assert not check_linear(linear.TritonLinear(), INFO, CPU, case, rows=(3, 33))
    assert not stream.workspace(CPU)[1].any()


@pytest.mark.parametrize("rows", [1, 5])
def test_weights_and_rows_may_have_scales(rows: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(rows, 64, generator=generator), torch.randn(96, 64, generator=generator)
    factors, x_scale = torch.rand(96, generator=generator) + 0.5, torch.rand(rows, generator=generator) + 0.5
    bias = torch.randn(96, generator=generator)
    expected = torch.nn.functional.silu((y := (x * x_scale[:, None]) @ (weight * factors[:, None]).T + bias)[:, :48])
    actual = stream.stream(x, weight, weight_scale=factors, x_scale=x_scale, activation="silu_mul", bias=bias)
    torch.testing.assert_close(actual, expected * y[:, 48:], rtol=1e-4, atol=1e-4)


def test_refusals_name_the_scheme_the_type_and_the_device() -> None:
    kernel = linear.TritonLinear()
    assert isinstance(kernel, FusedLinearKernel)
    assert kernel.reject(DENSE, 8, 8, "bfloat16", INFO) == []
    assert "int8" in kernel.reject(LinearScheme(weight="int8"), 8, 8, "float32", INFO)[0]
    assert "float64" in kernel.reject(DENSE, 8, 8, "float64", INFO)[0]
    assert "avx512" in kernel.reject(DENSE, 8, 8, "float32", replace(INFO, arch="avx512"))[0]
