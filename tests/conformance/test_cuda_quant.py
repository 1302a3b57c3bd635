"""8-bit floats on the CUDA platform. Needs a GPU: ``pytest -m gpu tests/conformance``."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from hardpoint.contract.quant import Fusion, LinearKernel, LinearScheme, NormSpec, QuantFormat
from hardpoint.ops.activation import silu_mul
from hardpoint.ops.norm import rms_norm
from hardpoint.testing.conformance.linear import FUSIONS, LinearCase, check_linear
from hardpoint_cuda.platform import CudaPlatform
from hardpoint_quant import float8
from hardpoint_quant.fp8 import Fp8

pytestmark = pytest.mark.gpu
#: At and around the borders between the ways that a product takes.
ROWS = (0, 1, 3, 16, 17, 32, 33, 70, 384, 385, 513)
SIZES = ((256, 512), (1024, 4096), (384, 14336))
CASES = [
    LinearCase(label=f"{out}x{columns}-{name}{'-bias' * bias}", out_features=out, in_features=columns, dtype="bfloat16",
               bias=bias, fusion=fusion)
    for out, columns in SIZES for name, fusion in FUSIONS.items() for bias in (False, True)
]  # fmt: skip


@pytest.fixture(scope="module")
def device() -> torch.device:
    """Return the first GPU."""
    if (reason := CudaPlatform().probe()) is not None:
        pytest.skip(reason)
    return torch.device("cuda", 0)


def kernels() -> dict[str, tuple[LinearKernel, QuantFormat, LinearScheme]]:
    from hardpoint_cuda.scaled_mm import ScaledMm
    from hardpoint_cuda.scaled_mm_block import ScaledMmBlock

    blocks = Fp8().read({"quant_method": "fp8", "weight_block_size": [128, 128]})
    return {
        "rows": (ScaledMm(), Fp8().online(), float8.scheme(float8.PER_ROW)),
        "blocks": (ScaledMmBlock(), blocks, float8.scheme(float8.BLOCK)),
    }


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.label)
@pytest.mark.parametrize("name", ["rows", "blocks"])
def test_kernel_agrees_with_the_product(name: str, case: LinearCase, device: torch.device) -> None:
    kernel, form, scheme = kernels()[name]
    info = CudaPlatform().devices()[0]
    if reasons := check_linear(kernel, info, device, case, rows=ROWS, quant=form, scheme=scheme):
        pytest.skip("; ".join(reasons))


def test_a_row_gives_the_same_by_every_way_up_to_rounding(device: torch.device) -> None:
    kernel = kernels()["rows"][0]
    codes, scale = float8.quantize_rows(torch.randn(2048, 1024, device=device))
    packed = kernel.pack({"weight": codes, "weight_scale": scale})
    x = torch.randn(600, 1024, device=device).bfloat16()
    many = kernel.apply(x, packed, None).float()
    for rows in (1, 20, 32, 33, 300):
        few = kernel.apply(x[:rows], packed, None).float()
        assert (few - many[:rows]).norm() < 5e-3 * few.norm()


@pytest.mark.parametrize("rows", [1, 32, 100, 600])
def test_an_activation_that_passes_to_the_layer_behind(rows: int, device: torch.device) -> None:
    for kernel, form, scheme in kernels().values():
        packed = []
        for out, columns in ((2048, 1024), (512, 1024)):
            specs = form.tensors(scheme, out, columns)
            packed.append(kernel.pack({name: torch.rand(spec.shape, device=device).to(getattr(torch, spec.dtype)) - 0.5
                                       if name != "weight" else torch.randn(spec.shape, device=device).to(float8.DTYPE)
                                       for name, spec in specs.items()}))  # fmt: skip
        x = torch.randn(rows, 1024, device=device).bfloat16()
        apply = kernel.apply_fused  # type: ignore[attr-defined]
        here = apply(x, packed[0], None, Fusion(activation="silu_mul"), None, None)
        there = apply(x, packed[0], None, Fusion(activation="silu_mul", deferrable=True), None, None)
        behind = Fusion(input_activation="silu_mul", residual=True)
        residual = torch.randn(rows, 512, device=device).bfloat16()
        want = apply(here, packed[1], None, Fusion(residual=True), None, residual.clone()).float()
        got = apply(there, packed[1], None, behind, None, residual.clone()).float()
        assert (got - want).norm() < 2e-2 * want.norm()


def exact(values: torch.Tensor, group: int) -> tuple[torch.Tensor, torch.Tensor]:
    folded = values.float().unflatten(1, (-1, group or values.shape[1]))
    scale = (folded.abs().amax(-1, keepdim=True) / float8.LARGEST).clamp(min=float8.LEAST_SCALE)
    codes = (folded / scale).clamp(-float8.LARGEST, float8.LARGEST).to(float8.DTYPE)
    return codes.flatten(1), scale.squeeze(-1)


@pytest.mark.parametrize("group", [0, 128])
@pytest.mark.parametrize(("rows", "size"), [(1, 4096), (7, 14336), (513, 3072), (5, 384)])
def test_quantizing_kernels_give_the_codes_of_their_ops(rows: int, size: int, group: int, device: torch.device) -> None:
    """Nearly all codes are equal; another order of summation and another exp move a few by one step."""
    from hardpoint_triton.quantize import norm_quantize, quantize, silu_mul_quantize

    x = (torch.randn(rows, 2 * size, device=device) * 3).bfloat16()
    weight = (1 + 0.1 * torch.randn(size, device=device)).bfloat16()
    half = x[:, :size]
    pairs: list[tuple[Callable[[], tuple[torch.Tensor, torch.Tensor]], torch.Tensor]] = [
        (lambda: quantize(half, group=group), half),
        (lambda: silu_mul_quantize(x, group=group), silu_mul.reference(x)),
        (lambda: norm_quantize(half, NormSpec(eps=1e-5), weight, group=group), rms_norm.reference(half, weight, 1e-5)),
    ]
    for call, values in pairs:
        codes, scale = (each[:rows] for each in call())
        want, by = exact(values, group)
        torch.testing.assert_close(scale, by, rtol=1e-2, atol=0)
        assert (codes.float() != want.float()).float().mean() < 2e-3
        assert ((codes.float() - want.float()).abs() <= want.float().abs() / 7 + 2.0**-8).all()
