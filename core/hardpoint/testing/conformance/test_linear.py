"""Every linear kernel of the platform on every format's schemes that it takes, with every fusion that it claims."""

from __future__ import annotations

import pytest

from hardpoint.config import EngineConfig
from hardpoint.contract.device import Device
from hardpoint.contract.platform import Platform
from hardpoint.contract.quant import LinearKernel, OnlineMethod, QuantFormat
from hardpoint.layers.linear import TorchLinear
from hardpoint.plugins import Catalogue
from hardpoint.testing.conformance.linear import ROWS, LinearCase, check_linear, linear_cases
from hardpoint.testing.conformance.plugin import refuse
from hardpoint.testing.conformance.shapes import SHAPE

_CASES = list(linear_cases())


@pytest.fixture(scope="module")
def kernels(platform: Platform, catalogue: Catalogue) -> dict[str, LinearKernel]:
    """The platform's, by name, and the core's, which every platform falls back to."""
    named = {name: catalogue.create("linear_kernels", name) for name in platform.linear_kernels()}
    return {**named, "torch": TorchLinear()}


@pytest.fixture(scope="module")
def rows(platform: Platform, device: Device, config: EngineConfig) -> tuple[int, ...]:
    """Numbers of rows to try: those that the device's programs were compiled for where it wants fixed shapes."""
    if not device.caps.static_shapes:
        return ROWS
    shapes = platform.limits(SHAPE, config).shapes
    return tuple(sorted({shape.tokens for shape in shapes}))


@pytest.mark.parametrize("case", _CASES, ids=lambda case: case.label)
def test_dense_layers(
    case: LinearCase, kernels: dict[str, LinearKernel], device: Device, rows: tuple[int, ...]
) -> None:
    if case.dtype not in device.caps.dtypes:
        refuse(f"the device does not run in {case.dtype}")
    refusals = {
        name: check_linear(kernel, device.info, device.torch_device, case, rows=rows)
        for name, kernel in kernels.items()
    }
    if all(refusals.values()):
        refuse([f"{name}: {', '.join(why)}" for name, why in refusals.items()])


def _online_formats(catalogue: Catalogue) -> list[tuple[str, QuantFormat]]:
    """Return every format into which dense weights can be brought, by its method's name."""
    methods = [(name, catalogue.create("quant_methods", name)) for name in catalogue.names("quant_methods")]
    return [(name, method.online()) for name, method in methods if isinstance(method, OnlineMethod)]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_every_pair_of_format_and_kernel(
    dtype: str, kernels: dict[str, LinearKernel], catalogue: Catalogue, device: Device, rows: tuple[int, ...]
) -> None:
    if dtype not in device.caps.dtypes:
        refuse(f"the device does not run in {dtype}")
    taken, refusals = [], []
    for format_name, found in _online_formats(catalogue):
        scheme = found.scheme("model.layers.0.mlp.down_proj")
        for name, kernel in kernels.items():
            case = LinearCase(label=f"{format_name}-{dtype}", out_features=256, in_features=512, dtype=dtype)
            reasons = check_linear(
                kernel, device.info, device.torch_device, case, rows=rows, quant=found, scheme=scheme
            )
            if reasons:
                refusals.append(f"{name} on {format_name}: {', '.join(reasons)}")
            else:
                taken.append((format_name, name))
    if not taken:
        refuse(refusals)
