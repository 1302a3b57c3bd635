"""Linear kernels against products in float64, with every fusion that they claim."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch
import torch.nn.functional as F

from hardpoint.contract.quant import DENSE, PLAIN, FusedLinearKernel, Fusion, LinearKernel, LinearScheme, NormSpec

if TYPE_CHECKING:
    from hardpoint.contract.device import DeviceInfo
    from hardpoint.contract.quant import QuantFormat, TensorSpec

#: Numbers of rows at and around the sizes of tiles, none included.
ROWS: Final = (0, 1, 3, 16, 17, 33, 70)
#: (output features, input features).
SIZES: Final = ((96, 256), (34, 33), (1000, 80), (130, 520))
FUSIONS: Final[Mapping[str, Fusion]] = {
    "plain": PLAIN,
    "norm": Fusion(norm=NormSpec(eps=1e-6)),
    "norm-offset": Fusion(norm=NormSpec(eps=1e-5, offset=1.0)),
    "norm-wide": Fusion(norm=NormSpec(eps=1e-5, wide=True)),
    "silu": Fusion(activation="silu_mul"),
    "norm-silu": Fusion(norm=NormSpec(eps=1e-6), activation="silu_mul"),
    "norm-gelu": Fusion(norm=NormSpec(eps=1e-6, offset=1.0), activation="gelu_mul"),
    "gelu-exact": Fusion(activation="gelu_mul_exact"),
    "residual": Fusion(residual=True),
    "all": Fusion(norm=NormSpec(eps=1e-6), activation="silu_mul", residual=True),
}
#: Largest error in units of the largest expected value.
TOLERANCE: Final[Mapping[str, float]] = {"float32": 2e-5, "bfloat16": 1.6e-2, "float16": 2e-3}
#: The same where the kernel also rounds its input to 8 bits.
QUANTIZED_INPUT: Final = 8e-2


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearCase:
    """One layer to try a kernel on.

    Attributes:
        label: names the case in test reports.
        out_features, in_features: the weight's shape; the output has half of the former behind a gated activation.
        dtype: of input, output and what is not quantized, by torch's name.
        bias: whether the layer has one.
        fusion: what surrounds the product.
    """

    label: str
    out_features: int
    in_features: int
    dtype: str
    bias: bool = False
    fusion: Fusion = PLAIN


def linear_cases(dtypes: tuple[str, ...] = ("float32", "bfloat16", "float16")) -> Iterator[LinearCase]:
    """Return every fusion on the first size, and the plain product and the longest fusion on the others."""
    for dtype in dtypes:
        for out, columns in SIZES:
            for name, fusion in FUSIONS.items():
                if (out, columns) != SIZES[0] and name not in ("plain", "all"):
                    continue
                for bias in (False, True):
                    label = f"{dtype}-{out}x{columns}-{name}{'-bias' * bias}"
                    yield LinearCase(
                        label=label, out_features=out, in_features=columns, dtype=dtype, bias=bias, fusion=fusion
                    )


def stored_tensors(
    specs: Mapping[str, TensorSpec], device: torch.device, generator: torch.Generator
) -> dict[str, torch.Tensor]:
    """Return random contents for a layer's stored tensors: scales near ``1 / sqrt(in)``, everything else of any value."""
    columns = max(spec.shape[-1] for spec in specs.values() if spec.shape)
    tensors = {}
    for name, spec in specs.items():
        dtype = getattr(torch, spec.dtype)
        if not dtype.is_floating_point:
            limits = torch.iinfo(dtype)
            low, high = max(limits.min, -(2**31)), min(limits.max, 2**31 - 1) + 1
            values = torch.randint(low, high, spec.shape, generator=generator)
        elif "scale" in name:
            values = (torch.rand(spec.shape, generator=generator) + 0.5) * columns**-0.5
        else:
            values = torch.randn(spec.shape, generator=generator)
        tensors[name] = values.to(dtype).to(device)
    return tensors


def check_linear(
    kernel: LinearKernel,
    info: DeviceInfo,
    device: torch.device,
    case: LinearCase,
    *,
    rows: tuple[int, ...] = ROWS,
    quant: QuantFormat | None = None,
    scheme: LinearScheme = DENSE,
    seed: int = 0,
) -> list[str]:
    """Run ``kernel`` on a layer with random contents for every number of rows and hold it against float64.

    The input is a view with gaps between its rows, as a slice of a fused projection is, and once more contiguous.

    Args:
        kernel: to be tested.
        info, device: where it runs.
        case: the layer.
        rows: numbers of rows.
        quant, scheme: the format whose scheme is tested; a dense layer otherwise.
        seed: of the contents.

    Returns:
        Why the kernel does not take the case; empty when it was tested.

    Raises:
        AssertionError: when a result is off, or the input was changed.
    """
    reasons = kernel.reject(scheme, case.out_features, case.in_features, case.dtype, info)
    if reasons:
        return reasons
    plain = case.fusion == PLAIN
    if not plain and not (isinstance(kernel, FusedLinearKernel) and kernel.fuses(case.fusion, scheme, case.bias)):
        return [f"does not fuse {case.fusion}"]
    dtype = getattr(torch, case.dtype)
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(dtype).to(device)

    if quant is None:
        tensors = {"weight": normal(case.out_features, case.in_features) * case.in_features**-0.5}
        weight = tensors["weight"].double()
    else:
        tensors = stored_tensors(quant.tensors(scheme, case.out_features, case.in_features), device, generator)
        weight = quant.dequantize(scheme, tensors, torch.float32).double()
    packed = kernel.pack(tensors)
    bias = normal(case.out_features) if case.bias else None
    norm_weight = None
    if case.fusion.norm is not None:
        norm_weight = normal(case.in_features) * 0.1 + (1.0 - case.fusion.norm.offset)
        norm_weight = norm_weight.float() if case.fusion.norm.wide else norm_weight
    width = case.out_features // 2 if case.fusion.activation else case.out_features
    limit = TOLERANCE[case.dtype] if scheme.activation is None else QUANTIZED_INPUT
    for count in rows:
        for gap in (11, 0):
            x = normal(count, case.in_features + gap)[:, gap // 3 : gap // 3 + case.in_features]
            before = x.clone()
            for residual in (normal(count, width), None) if case.fusion.residual else (None,):
                expected = expected_output(before, weight, bias, case.fusion, norm_weight, residual)
                if plain:
                    actual = kernel.apply(x, packed, bias)
                else:
                    assert isinstance(kernel, FusedLinearKernel)
                    actual = kernel.apply_fused(x, packed, bias, case.fusion, norm_weight, residual)
                where = f"{kernel.name}[{case.label}], {count} rows, gap {gap}"
                assert actual.dtype == dtype, f"{where}: {actual.dtype}"
                assert actual.shape == expected.shape, f"{where}: {tuple(actual.shape)}"
                assert torch.equal(x, before), f"{where}: the input was overwritten"
                scale = expected.abs().max().item() if count else 1.0
                error = ((actual.double() - expected).abs().max() / scale).item() if count else 0.0
                assert error <= limit, f"{where}: error {error:.2e} of the largest value, allowed {limit:.0e}"
    return []


def expected_output(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    fusion: Fusion,
    norm_weight: torch.Tensor | None,
    residual: torch.Tensor | None,
) -> torch.Tensor:
    """Return ``residual + activation(norm(x) @ weight.T + bias)`` in float64."""
    y = x.double()
    if fusion.norm is not None:
        assert norm_weight is not None
        y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + fusion.norm.eps)
        y = y * (norm_weight.double() + fusion.norm.offset)
    y = y @ weight.T
    if bias is not None:
        y = y + bias.double()
    if fusion.activation:
        gate, up = y.chunk(2, -1)
        if fusion.activation == "silu_mul":
            y = F.silu(gate) * up
        else:
            y = F.gelu(gate, approximate="tanh" if fusion.activation == "gelu_mul" else "none") * up
    return y if residual is None else y + residual.double()
