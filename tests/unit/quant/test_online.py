"""Dense weights that are rounded to 8-bit floats while they load."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file
from weights_rig import load

from hardpoint.contract.device import DeviceInfo
from hardpoint.contract.errors import ConfigError
from hardpoint.contract.quant import LinearScheme, OnlineFormat, OnlineMethod, QuantFormat, QuantMethod
from hardpoint_quant.compressed_tensors import CompressedTensors
from hardpoint_quant.float8 import LARGEST, dequantize, quantize_rows
from hardpoint_quant.fp8 import Fp8, Fp8Online

E4M3 = torch.float8_e4m3fn


class Float8Kernel:
    """Takes weights in 8-bit floats as they are stored."""

    name: ClassVar[str] = "float8-test"

    def reject(
        self, scheme: LinearScheme, out_features: int, in_features: int, dtype: str, info: DeviceInfo
    ) -> list[str]:
        return [] if scheme.weight == "fp8_e4m3" and scheme.group <= 0 else ["takes 8-bit floats only"]

    def pack(self, tensors: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        assert tensors["weight"].dtype == E4M3
        assert tensors["weight_scale"].dtype == torch.float32
        assert tensors["weight_scale"].shape == tensors["weight"].shape[:1]
        return tensors

    def apply(self, x: torch.Tensor, packed: Mapping[str, torch.Tensor], bias: torch.Tensor | None) -> torch.Tensor:
        return torch.nn.functional.linear(x, dequantize(packed["weight"], packed["weight_scale"], 0, x.dtype), bias)


def test_what_the_protocols_say() -> None:
    assert isinstance(Fp8(), OnlineMethod)
    assert isinstance(Fp8().online(), OnlineFormat)
    assert isinstance(CompressedTensors(), QuantMethod)
    assert not isinstance(CompressedTensors(), OnlineMethod)
    read = Fp8().read({"quant_method": "fp8"})
    assert isinstance(read, QuantFormat)
    assert not isinstance(read, OnlineFormat)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_value_is_within_half_a_step(dtype: torch.dtype) -> None:
    """E4M3 has 3 bits of mantissa and its least step is 2**-9: half of either, in units of the row's scale."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(64, 257, generator=generator) * torch.logspace(-3, 3, 64).unsqueeze(-1)
    weight = weight.to(dtype)
    codes, scale = quantize_rows(weight)
    assert (codes.dtype, scale.dtype, scale.shape) == (E4M3, torch.float32, (64,))
    got, want = dequantize(codes, scale, 0, torch.float64), weight.double()
    step = torch.maximum(want.abs() * 2.0**-4, scale.double().unsqueeze(-1) * 2.0**-10)
    assert ((got - want).abs() <= step * (1 + 1e-6)).all()
    assert (codes.float().abs().amax(-1) == LARGEST).all()


def test_rows_of_zeros_and_of_tiny_values_stay_finite() -> None:
    weight = torch.zeros(3, 32)
    weight[1] = 1e-38
    weight[2, 0] = -3.0
    codes, scale = quantize_rows(weight)
    got = dequantize(codes, scale, 0, torch.float32)
    assert torch.isfinite(got).all()
    assert (scale > 0).all()
    assert torch.equal(got[0], torch.zeros(32))
    torch.testing.assert_close(got[2], weight[2])


def test_projections_are_rounded_and_all_else_is_not(checkpoint: Callable[..., Path]) -> None:
    folder = checkpoint("Qwen3MoeForCausalLM")
    held = load_file(folder / "model.safetensors")
    loaded = load(folder, quantization="fp8")
    assert loaded.description["quantization"] == "fp8"
    layer = loaded.model.layers[0]  # type: ignore[attr-defined]
    name = "model.layers.0.self_attn.o_proj.weight"
    exact = held[name]
    assert torch.equal(layer.attention.out.packed["weight"], dequantize(*quantize_rows(exact), 0, torch.float32))
    assert torch.equal(layer.mlp.router.packed["weight"], held["model.layers.0.mlp.gate.weight"])
    assert torch.equal(loaded.model.head.packed["weight"], held["lm_head.weight"])  # type: ignore[attr-defined]


def test_a_kernel_gets_codes_and_the_model_takes_half_the_memory(checkpoint: Callable[..., Path]) -> None:
    folder = checkpoint()
    dense = load(folder)
    reference = load(folder, quantization="fp8")
    fast = load(folder, kernels=(Float8Kernel(),), quantization="fp8")
    assert fast.description["linear_kernels"] == {"float8-test": 8, "torch": 1}
    row = fast.description["linear_layers"][0]
    assert row == {
        "layers": "q_proj+k_proj+v_proj",
        "count": 2,
        "stored": "fp8_e4m3, a scale per row, activations fp8_e4m3",
        "runs": "fp8_e4m3, a scale per row, activations fp8_e4m3",
        "kernel": "float8-test",
    }
    x = torch.randn(3, 192, generator=torch.Generator().manual_seed(0))
    for mine, other in zip(fast.model.layers, reference.model.layers, strict=True):  # type: ignore[attr-defined]
        assert torch.allclose(mine.mlp(x, x.clone()), other.mlp(x, x.clone()), atol=1e-5)
    projections = sum(p.numel() for p in (layer.mlp.down.packed["weight"] for layer in dense.model.layers))  # type: ignore[attr-defined]
    assert dense.weight_bytes - fast.weight_bytes > 2.9 * projections


def test_no_dense_copy_of_a_projection_is_ever_made_whole(
    checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is rounded is one checkpoint tensor at a time, and no dense storage waits for it."""
    from hardpoint.layers.build import ModelBuild

    seen: list[tuple[int, ...]] = []
    made: list[tuple[tuple[int, ...], torch.dtype | None]] = []
    plain_quantize, plain_empty = Fp8Online.quantize, ModelBuild.empty

    def quantize(self: Fp8Online, scheme: LinearScheme, weight: torch.Tensor) -> Mapping[str, torch.Tensor]:
        seen.append(tuple(weight.shape))
        return plain_quantize(self, scheme, weight)

    def empty(self: ModelBuild, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> torch.Tensor:
        made.append((shape, dtype))
        return plain_empty(self, shape, dtype)

    monkeypatch.setattr(Fp8Online, "quantize", quantize)
    monkeypatch.setattr(ModelBuild, "empty", empty)
    load(checkpoint(), kernels=(Float8Kernel(),), quantization="fp8")
    assert len(seen) == 2 * 7
    assert set(seen) == {(192, 192), (96, 192), (320, 192), (192, 320)}
    wide = {shape for shape, dtype in made if len(shape) == 2 and dtype not in (E4M3, torch.float32)}
    assert wide == {(288, 192)}  # embedding and head


def test_ranks_round_their_own_rows_as_one_rank_does(
    checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "models"))
    from threaded_ranks import on_ranks

    folder = checkpoint()
    whole = load(folder, kernels=(Float8Kernel(),), quantization="fp8").model.layers[0]  # type: ignore[attr-defined]
    parts = on_ranks(2, lambda comm: load(folder, None, (Float8Kernel(),), comm, quantization="fp8").model)
    mine = [part.layers[0].mlp.gate_up.packed for part in parts]  # type: ignore[attr-defined]
    gate = torch.cat([part["weight_scale"][:160] for part in mine])
    assert torch.equal(gate, whole.mlp.gate_up.packed["weight_scale"][:320])
    down = [
        dequantize(p["weight"], p["weight_scale"], 0, torch.float32)
        for p in (part.layers[0].mlp.down.packed for part in parts)
    ]  # type: ignore[attr-defined]
    exact = load_file(folder / "model.safetensors")["model.layers.0.mlp.down_proj.weight"]
    assert torch.equal(down[1], dequantize(*quantize_rows(exact[:, 160:]), 0, torch.float32))


def test_random_weights_are_the_dense_models_rounded(checkpoint: Callable[..., Path]) -> None:
    folder = checkpoint()
    dense = load(folder, load_format="dummy", seed=7).model.layers[1].mlp.gate_up.packed["weight"]  # type: ignore[attr-defined]
    fast = load(folder, kernels=(Float8Kernel(),), load_format="dummy", seed=7, quantization="fp8")
    packed = fast.model.layers[1].mlp.gate_up.packed  # type: ignore[attr-defined]
    codes, scale = quantize_rows(dense)
    assert torch.equal(packed["weight"].float(), codes.float())
    assert torch.equal(packed["weight_scale"], scale)


def test_random_weights_of_a_checkpoint_in_8_bits_differ_from_each_other(checkpoint: Callable[..., Path]) -> None:
    from weights_rig import edit_config

    folder = checkpoint()
    for size in (None, [128, 128]):
        edit_config(folder, quantization_config={"quant_method": "fp8", "weight_block_size": size})
        weight = load(folder, load_format="dummy").model.layers[0].mlp.down.packed["weight"]  # type: ignore[attr-defined]
        assert torch.isfinite(weight).all()
        assert weight.float().std() > 1e-3


@pytest.mark.parametrize(
    ("wanted", "config", "message"),
    [
        ("compressed-tensors", None, r"not quantized.*'compressed-tensors'.*leave --quantization out"),
        ("fp8", {"quant_method": "gptq"}, r"quantized with 'gptq', which 'fp8' reads; installed: .*fp8"),
        (
            "fp8",
            {"quant_method": "compressed-tensors"},
            r"'compressed-tensors', which 'fp8' reads.*leave --quantization out",
        ),
        (
            None,
            {"quant_method": "gptq"},
            r"'gptq', which no installed format reads; installed: .*use a checkpoint in bfloat16",
        ),
    ],
)
def test_a_method_that_does_not_fit_the_checkpoint(
    wanted: str | None, config: dict[str, Any] | None, message: str, checkpoint: Callable[..., Path]
) -> None:
    from weights_rig import edit_config

    folder = checkpoint()
    if config is not None:
        edit_config(folder, quantization_config=config)
    with pytest.raises(ConfigError, match=message):
        load(folder, **({} if wanted is None else {"quantization": wanted}))
