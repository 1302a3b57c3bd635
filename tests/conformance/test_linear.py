"""Linear kernels of the CPU against the product in float64. Triton's run in its interpreter, see there."""

from __future__ import annotations

import pytest
import torch

from hardpoint.contract.quant import DENSE, PLAIN, LinearKernel, LinearScheme
from hardpoint.layers.linear import TorchLinear
from hardpoint.testing.conformance.linear import LinearCase, check_linear, linear_cases
from hardpoint_cpu.linear import OneDnnLinear
from hardpoint_cpu.platform import CpuPlatform

INFO = CpuPlatform().devices()[0]
KERNELS: dict[str, LinearKernel] = {"onednn": OneDnnLinear(), "torch": TorchLinear()}


#: Neither fuses anything: the core composes, with ops that have tests of their own.
CASES = [case for case in linear_cases() if case.fusion == PLAIN]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.label)
@pytest.mark.parametrize("name", KERNELS)
def test_kernel_agrees_with_the_product(name: str, case: LinearCase) -> None:
    if reasons := check_linear(KERNELS[name], INFO, torch.device("cpu"), case):
        pytest.skip("; ".join(reasons))


def test_a_wrong_product_is_found() -> None:
    """What sums one column too few differs by more than any tolerance."""

    class Short(TorchLinear):
        def pack(self, tensors):
            return {"weight": torch.cat([tensors["weight"][:, :-1], torch.zeros(len(tensors["weight"]), 1)], 1)}

    case = next(iter(linear_cases(("float32",))))
    with pytest.raises(AssertionError, match="of the largest value"):
        check_linear(Short(), INFO, torch.device("cpu"), case)


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
