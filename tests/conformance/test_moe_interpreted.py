"""Mixture of experts in Triton's interpreter, on the smallest shapes that reach every branch."""

from __future__ import annotations

import pytest
import torch

from hardpoint.ops.registry import OPS
from hardpoint.testing.conformance.ops import check_call

triton = pytest.importorskip("triton")
if not triton.knobs.runtime.interpret:
    pytest.skip("Triton compiles in this run", allow_module_level=True)

CPU = torch.device("cpu")
#: Few tokens and many, a slice of the experts, padding in every direction, one expert with all and one with half.
CALLS = {
    "topk_router": ("7x60-softmax", "3x128-renormalised", "2x256-chosen", "1x8-sigmoid", "0x8-softmax"),
    "moe": ("1x2-gelu_tanh", "1x2-part", "9x4-biases", "9x4-part", "0x2-silu", "elsewhere", "one-takes-half"),
    "routed_moe": ("1x2-softmax", "1x2-biases", "1x2-plain", "70x2-rounded", "0x2-plain"),
}


@pytest.mark.parametrize(("name", "label"), [(name, label) for name, labels in CALLS.items() for label in labels])
def test_ops_agree_with_their_references(name: str, label: str) -> None:
    from hardpoint_triton.ops import OPS as BODIES

    made = OPS[name]
    (call,) = (call for call in made.inputs(torch.float32, CPU, 0) if call.label == label)
    check_call(made, BODIES[name], call, torch.float32)


def test_half_precision_streams_and_groups() -> None:
    from hardpoint_triton.moe import moe

    for call in OPS["moe"].inputs(torch.float16, CPU, 0):
        if call.label in ("1x2-swiglu_oai", "9x4-residual"):
            check_call(OPS["moe"], moe, call, torch.float16)


@pytest.mark.parametrize("few", [0, 10_000], ids=["chunks", "at-once"])
@pytest.mark.parametrize(("experts", "first", "pairs"), [(8, 0, 300), (3, 2, 300), (8, 0, 5)])
def test_pairs_are_sorted_by_expert_and_number(experts: int, first: int, pairs: int, few: int) -> None:
    from hardpoint_triton.moe_routing_kernels import SortedPairs

    tile = 16
    ids = torch.randint(0, 8, (pairs, 1), generator=torch.Generator().manual_seed(pairs))
    made = SortedPairs(ids, experts, first, tile, few=few)
    assert made.num_tiles == pairs // tile + experts
    found: dict[int, list[int]] = {expert: [] for expert in range(experts)}
    for expert, start, stop in zip(made.expert.tolist(), made.start.tolist(), made.stop.tolist(), strict=True):
        if expert >= 0:
            assert start < stop
            found[expert] += made.order[start : min(stop, start + tile)].tolist()
    expected = {expert: (ids.flatten() == expert + first).nonzero().flatten().tolist() for expert in range(experts)}
    assert found == expected


def test_a_token_is_the_same_in_any_company() -> None:
    from hardpoint_triton.moe import moe

    (call,) = (c for c in OPS["moe"].inputs(torch.float32, CPU, 0) if c.label == "40x1-silu")
    x, weights, ids, *rest = call.args
    together = moe(x, weights, ids, *rest)
    order = torch.arange(39, -1, -1)
    assert torch.equal(moe(x[order], weights[order], ids[order], *rest)[order], together)


@pytest.mark.parametrize("tokens", [1, 20], ids=["streamed", "grouped"])
def test_experts_in_8_bit_floats(tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few tokens meet codes as they are; many are rounded to codes themselves, and so are their inner values."""
    from hardpoint_quant.float8 import dequantize, quantize_rows
    from hardpoint_triton import moe_grouped_kernels
    from hardpoint_triton.moe import moe

    # The interpreter rounds some values to codes far away.
    monkeypatch.setattr(moe_grouped_kernels, "quantize", quantize_rows)

    def rounded(values: torch.Tensor) -> torch.Tensor:
        return values if tokens == 1 else dequantize(*quantize_rows(values), 0, torch.float32)

    generator = torch.Generator().manual_seed(tokens)
    gate_up, gate_up_scale = quantize_rows(torch.randn(8, 96, 64, generator=generator) / 8)
    down, down_scale = quantize_rows(torch.randn(8, 64, 48, generator=generator) / 7)
    x, weights = torch.randn(tokens, 64, generator=generator), torch.rand(tokens, 2, generator=generator)
    ids = torch.rand(tokens, 8, generator=generator).argsort(-1)[:, :2]
    expected = torch.zeros_like(x)
    for choice in range(2):
        first = torch.stack([dequantize(gate_up[e], gate_up_scale[e], 0, torch.float32) for e in ids[:, choice]])
        second = torch.stack([dequantize(down[e], down_scale[e], 0, torch.float32) for e in ids[:, choice]])
        inner = torch.einsum("th,trh->tr", rounded(x), first)
        inner = rounded(torch.nn.functional.silu(inner[:, :48]) * inner[:, 48:])
        expected += weights[:, choice, None] * torch.einsum("ti,thi->th", inner, second)
    actual = moe(x, weights, ids, gate_up, down, gate_up_scale=gate_up_scale, down_scale=down_scale)
    # A value between two codes may fall to either.
    assert torch.linalg.vector_norm(actual - expected) < 5e-3 * torch.linalg.vector_norm(expected)
