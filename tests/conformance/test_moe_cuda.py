"""Mixture of experts on a GPU at a published layer's size. Needs one: ``pytest -m gpu tests/conformance``."""

from __future__ import annotations

import pytest
import torch

from hardpoint.ops.registry import OPS

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]

EXPERTS, HIDDEN, INNER, K = 128, 2048, 768, 8


def noise(*shape: int, scale: float = 1.0) -> torch.Tensor:
    """Return bfloat16 noise on the GPU."""
    return (torch.randn(shape, device="cuda") * scale).bfloat16()


def error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the relative error in the Euclidean norm."""
    return float((actual.double() - expected.double()).norm() / expected.double().norm())


@pytest.fixture(scope="module")
def layer() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return router, gate and up projections, down projections, and norm."""
    torch.manual_seed(0)
    gate_up, down = (
        noise(EXPERTS, 2 * INNER, HIDDEN, scale=HIDDEN**-0.5),
        noise(EXPERTS, HIDDEN, INNER, scale=INNER**-0.5),
    )
    return noise(EXPERTS, HIDDEN, scale=HIDDEN**-0.5), gate_up, down, noise(HIDDEN, scale=0.1) + 1


@pytest.mark.parametrize("tokens", [1, 4, 5, 17, 130, 513, 2000])
def test_experts_are_nearer_to_the_exact_sum_than_the_reference(
    tokens: int, layer: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
) -> None:
    from hardpoint_triton.moe import moe
    from hardpoint_triton.moe_routing_kernels import topk_router

    _, gate_up, down, _ = layer
    x = noise(tokens, HIDDEN)
    weights, ids = topk_router(noise(tokens, EXPERTS), K, True)
    actual, again = (moe(x, weights, ids, gate_up, down) for _ in range(2))
    assert torch.equal(actual, again)
    count = min(tokens, 16)
    few = (weights[:count], ids[:count])
    exact = OPS["moe"].reference(x[:count].float(), *few, gate_up.float(), down.float())
    reference = OPS["moe"].reference(x[:count], *few, gate_up, down)
    assert error(actual[:count], exact) <= error(reference, exact)


@pytest.mark.parametrize("tokens", [1, 4, 20, 300, 2000])
def test_experts_in_8_bit_floats(
    tokens: int, layer: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
) -> None:
    """Few tokens meet codes as they are; many are rounded to 3 bits of mantissa twice."""
    from hardpoint_quant.float8 import quantize_rows
    from hardpoint_triton.moe import moe
    from hardpoint_triton.moe_routing_kernels import topk_router

    _, gate_up, down, _ = layer
    (gate_up, gate_up_scale), (down, down_scale) = quantize_rows(gate_up), quantize_rows(down)
    scales = {"gate_up_scale": gate_up_scale, "down_scale": down_scale}
    x = noise(tokens, HIDDEN)
    weights, ids = topk_router(noise(tokens, EXPERTS), K, True)
    count = min(tokens, 16)
    expected = OPS["moe"].reference(x[:count], weights[:count], ids[:count], gate_up, down, **scales)
    assert error(moe(x, weights, ids, gate_up, down, **scales)[:count], expected) < (0.01 if tokens <= 4 else 0.06)


@pytest.mark.parametrize("tokens", [1, 40])
def test_a_captured_layer_follows_its_inputs(
    tokens: int, layer: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
) -> None:
    from hardpoint_triton.moe import routed_moe

    router, gate_up, down, norm = layer
    x = noise(tokens, HIDDEN)

    def run() -> torch.Tensor:
        return routed_moe(x, router, gate_up, down, K, True, norm_weight=norm, round_weights=True, residual=x)

    run()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = run()
    for _ in range(3):
        x.copy_(noise(tokens, HIDDEN))
        graph.replay()
        assert torch.equal(out, run())
