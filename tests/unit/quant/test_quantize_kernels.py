"""Triton's quantizing kernels in its interpreter against the ops that they fuse, and the kernel of 8-bit products."""

from __future__ import annotations

import pytest
import torch

from hardpoint.contract.device import DeviceInfo
from hardpoint.contract.quant import DENSE, FusedLinearKernel, LinearScheme, NormSpec
from hardpoint.ops.activation import silu_mul
from hardpoint.ops.norm import rms_norm

triton = pytest.importorskip("triton")
if not triton.knobs.runtime.interpret:
    pytest.skip("Triton compiles in this run", allow_module_level=True)

SIZE = 384


def exact(values: torch.Tensor, group: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return codes in float32 and scales, by torch."""
    folded = values.float().unflatten(1, (-1, group or values.shape[1]))
    scale = (folded.abs().amax(-1, keepdim=True) / 448).clamp(min=2.0**-40)
    codes = (folded / scale).clamp(-448, 448).to(torch.float8_e4m3fn).float()
    return codes.flatten(1), scale.squeeze(-1)


def same(got: tuple[torch.Tensor, torch.Tensor], want: tuple[torch.Tensor, torch.Tensor], rtol: float) -> None:
    codes, scale = (each[: len(want[0])] for each in got)
    assert codes.dtype == torch.float8_e4m3fn
    torch.testing.assert_close(scale, want[1], rtol=rtol, atol=0)
    mine, other = codes.float(), want[0]
    step = torch.maximum(other.abs() / 8, torch.tensor(2.0**-9))
    # Triton's interpreter rounds ties away from zero, and where rounding carries into the exponent it loses the carry.
    assert (((mine - other).abs() <= step) | ((2 * mine - other).abs() <= step)).all()
    assert (mine == other).float().mean() > 0.9


@pytest.mark.parametrize("group", [0, 128])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_what_is_fused_is_what_the_ops_give(dtype: torch.dtype, group: int) -> None:
    from hardpoint_triton.quantize import norm_quantize, quantize, silu_mul_quantize

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, 2 * SIZE, generator=generator).to(dtype) * 3
    x[1] = 0
    weight = (1 + 0.2 * torch.randn(SIZE, generator=generator)).to(dtype)
    half = x[:, :SIZE]
    # Sums in another order and another exp move some values by a rounding.
    near = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}[dtype]
    same(quantize(half, group=group), exact(half, group), 0)
    same(silu_mul_quantize(x, group=group), exact(silu_mul(x), group), near)
    for norm, by in (
        (NormSpec(eps=1e-5), weight),
        (NormSpec(eps=1e-5, offset=1.0), weight - 1),
        (NormSpec(eps=1e-5, wide=True), weight.float()),
    ):
        same(norm_quantize(half, norm, by, group=group), exact(rms_norm(half, by, norm.eps, norm.offset), group), near)


def test_a_row_is_rounded_the_same_in_any_company() -> None:
    from hardpoint_triton.quantize import quantize

    x = torch.randn(7, SIZE)
    codes, scale = quantize(x)
    for i in range(len(x)):
        alone = quantize(x[i : i + 1])
        assert torch.equal(alone[0].float(), codes[i : i + 1].float())
        assert torch.equal(alone[1], scale[i : i + 1])


def test_no_rows_and_padded_groups() -> None:
    from hardpoint_triton.quantize import quantize

    codes, scale = quantize(torch.empty(0, SIZE))
    assert (codes.shape, scale.shape) == ((0, SIZE), (0, 1))
    codes, scale = quantize(torch.randn(5, SIZE), group=128)
    assert codes.shape == (8, SIZE)
    assert scale.shape == (8, SIZE // 128)
    assert scale.stride() == (1, 8)


ROWS = LinearScheme(weight="fp8_e4m3", activation="fp8_e4m3", group=0)


BLOCKS = LinearScheme(weight="fp8_e4m3", activation="fp8_e4m3", group=128)
TENSOR = LinearScheme(weight="fp8_e4m3", activation="fp8_e4m3", group=-1)


@pytest.mark.parametrize(
    ("kernel", "scheme", "sizes", "dtype", "arch", "reason"),
    [
        ("ScaledMm", ROWS, (64, 64), "bfloat16", "sm90", None),
        ("ScaledMm", TENSOR, (64, 64), "bfloat16", "sm90", None),
        ("ScaledMm", BLOCKS, (128, 128), "bfloat16", "sm90", "not one for 128 inputs"),
        ("ScaledMm", DENSE, (64, 64), "bfloat16", "sm90", "reads fp8_e4m3 weights only, not dense"),
        (
            "ScaledMm",
            LinearScheme(weight="fp8_e4m3"),
            (64, 64),
            "bfloat16",
            "sm90",
            "the checkpoint keeps them in bfloat16",
        ),
        ("ScaledMm", ROWS, (64, 72), "bfloat16", "sm90", "input size 72 is no multiple of 16"),
        ("ScaledMm", ROWS, (24, 64), "bfloat16", "sm90", "output size 24 is no multiple of 16"),
        ("ScaledMm", ROWS, (64, 64), "float16", "sm90", "dtype is float16; it must be bfloat16"),
        ("ScaledMm", ROWS, (64, 64), "bfloat16", "sm80", "sm80 is no sm90 or later"),
        ("ScaledMm", ROWS, (64, 64), "bfloat16", "gfx942", "gfx942 is no sm90 or later"),
        ("ScaledMmBlock", BLOCKS, (256, 128), "bfloat16", "sm90", None),
        ("ScaledMmBlock", ROWS, (256, 128), "bfloat16", "sm90", "takes a scale per block of 128 x 128 only"),
        ("ScaledMmBlock", BLOCKS, (192, 128), "bfloat16", "sm90", "output size 192 is no multiple of 128"),
        ("ScaledMmBlock", BLOCKS, (128, 64), "bfloat16", "sm90", "input size 64 is no multiple of 128"),
        ("ScaledMmBlock", BLOCKS, (128, 128), "bfloat16", "sm100", "on sm90 only, not on sm100"),
        ("ScaledMmBlock", DENSE, (128, 128), "bfloat16", "sm90", "not dense"),
    ],
)
def test_kernels_say_why_they_refuse(
    kernel: str, scheme: LinearScheme, sizes: tuple[int, int], dtype: str, arch: str, reason: str | None
) -> None:
    from hardpoint_cuda.scaled_mm import ScaledMm
    from hardpoint_cuda.scaled_mm_block import ScaledMmBlock

    made = {"ScaledMm": ScaledMm, "ScaledMmBlock": ScaledMmBlock}[kernel]()
    assert isinstance(made, FusedLinearKernel)
    info = DeviceInfo(index=0, name="gpu", uuid="", arch=arch, total_bytes=None)
    reasons = made.reject(scheme, *sizes, dtype, info)
    assert reasons == [] if reason is None else any(reason in each for each in reasons)


@pytest.mark.parametrize("activation", ["", "silu_mul", "gelu_mul", "gelu_mul_exact"])
@pytest.mark.parametrize(("bias", "residual"), [(False, False), (True, True)])
def test_scales_behind_a_product_of_codes(activation: str, bias: bool, residual: bool) -> None:
    from hardpoint.ops.activation import gelu_mul
    from hardpoint_triton.quantize import rescale

    generator = torch.Generator().manual_seed(1)
    rows, width = 3, 2400
    raw = torch.randn(rows, width, generator=generator) * 40
    x_scale, weight_scale = torch.rand(rows, 1, generator=generator), torch.rand(width, generator=generator) / 8
    b = torch.randn(width, generator=generator) if bias else None
    want = raw * x_scale * weight_scale + (0 if b is None else b)
    if activation == "silu_mul":
        want = silu_mul(want)
    elif activation:
        want = gelu_mul(want, approximate="tanh" if activation == "gelu_mul" else "none")
    before = torch.randn(want.shape, generator=generator) if residual else None
    want = want if before is None else want + before
    got = rescale(raw, x_scale, weight_scale, b, activation, before)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
    assert before is None or got is before
