"""A format that is made up here: every linear layer, on kernels that take it and on those that do not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from weights_rig import edit_config, load

from hardpoint.contract.descriptor import Descriptor
from hardpoint.contract.device import DeviceInfo
from hardpoint.contract.errors import CheckpointError, ConfigError
from hardpoint.contract.quant import DENSE, LinearScheme, TensorSpec
from hardpoint.plugins import Catalogue
from hardpoint.plugins.scan import installed

GROUP = 16


class Grouped8:
    """int8 with a float scale for each 16 inputs of a row, and one tensor for the whole layer."""

    name: ClassVar[str] = "grouped8"
    unread: ClassVar[tuple[str, ...]] = ()

    def match(self, quantization_config: Mapping[str, Any]) -> bool:
        return quantization_config.get("quant_method") == "grouped8"

    def read(self, quantization_config: Mapping[str, Any]) -> Grouped8:
        return self

    def scheme(self, path: str) -> LinearScheme:
        return DENSE if "o_proj" in path or not path.endswith("_proj") else LinearScheme(weight="int8", group=GROUP)

    def tensors(self, scheme: LinearScheme, out_features: int, in_features: int) -> Mapping[str, TensorSpec]:
        return {
            "qweight": TensorSpec(shape=(out_features, in_features), dtype="int8", out_axis=0, in_axis=1),
            "scales": TensorSpec(
                shape=(in_features // GROUP, out_features), dtype="float32", out_axis=1, in_axis=0, in_pack=GROUP
            ),
            "factor": TensorSpec(shape=(1,), dtype="float32", out_axis=None),
        }

    def dequantize(self, scheme: LinearScheme, tensors: Mapping[str, torch.Tensor], dtype: torch.dtype) -> torch.Tensor:
        scales = tensors["scales"].t().repeat_interleave(GROUP, 1)
        return (tensors["qweight"].float() * scales * tensors["factor"]).to(dtype)


class Int8Kernel:
    """Takes the format as it is stored."""

    name: ClassVar[str] = "int8-test"

    def reject(
        self, scheme: LinearScheme, out_features: int, in_features: int, dtype: str, info: DeviceInfo
    ) -> list[str]:
        return [] if scheme.weight == "int8" else ["takes int8 only"]

    def pack(self, tensors: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        assert tensors["qweight"].dtype == torch.int8
        assert tensors["factor"].shape == (1,)
        return tensors

    def apply(self, x: torch.Tensor, packed: Mapping[str, torch.Tensor], bias: torch.Tensor | None) -> torch.Tensor:
        scales = packed["scales"].t().repeat_interleave(GROUP, 1)
        return F.linear(x, packed["qweight"].to(x.dtype) * scales * packed["factor"], bias)


DESCRIPTOR = Descriptor(
    kind="quant_methods", name="grouped8", contract=(1, 0), implementation="test_quantized:Grouped8"
)


def catalogue() -> Catalogue:
    extra = EntryPoint("grouped8", "test_quantized:DESCRIPTOR", "hardpoint.quant_methods")
    return Catalogue(entry_points=[*installed(), extra])


def quantize(folder: Path, factors: Callable[[str], float] = lambda name: 0.5) -> dict[str, torch.Tensor]:
    """Store a checkpoint in the format; return the dense values that its layers stand for."""
    held = load_file(folder / "model.safetensors")
    stored: dict[str, torch.Tensor] = {}
    dense: dict[str, torch.Tensor] = {}
    for name, tensor in held.items():
        path = name.removesuffix(".weight")
        if not name.endswith("_proj.weight") or "o_proj" in name:
            stored[name] = tensor
            continue
        factor = factors(path)
        grouped = tensor.unflatten(1, (-1, GROUP))
        scale = grouped.abs().amax(-1) / 127 / factor
        codes = (grouped / (scale.unsqueeze(-1) * factor)).round().to(torch.int8).flatten(1)
        stored |= {f"{path}.qweight": codes, f"{path}.scales": scale.t().contiguous()}
        stored[f"{path}.factor"] = torch.tensor([factor])
        dense[path] = codes.float() * scale.repeat_interleave(GROUP, 1) * factor
    save_file(stored, folder / "model.safetensors")
    edit_config(folder, quantization_config={"quant_method": "grouped8"})
    return dense


def test_without_a_kernel_weights_become_dense(checkpoint: Callable[..., Path]) -> None:
    folder = checkpoint()
    dense = quantize(folder)
    loaded = load(folder, catalogue())
    assert loaded.description["quantization"] == "grouped8"
    assert loaded.description["linear_kernels"] == {"torch": 9}
    layer = loaded.model.layers[1]  # type: ignore[attr-defined]
    want = torch.cat([dense[f"model.layers.1.self_attn.{name}_proj"] for name in "qkv"])
    assert torch.allclose(layer.attention.qkv.packed["weight"], want)
    assert torch.allclose(layer.mlp.down.packed["weight"], dense["model.layers.1.mlp.down_proj"])


def test_a_kernel_that_takes_the_format_gets_it_as_stored(checkpoint: Callable[..., Path]) -> None:
    folder = checkpoint()
    quantize(folder)
    reference, fast = load(folder, catalogue()), load(folder, catalogue(), kernels=(Int8Kernel(),))
    assert fast.description["linear_kernels"] == {"int8-test": 6, "torch": 3}
    assert fast.description["linear_kernels_refused"] == {"int8-test": ["takes int8 only"]}
    x = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))
    for mine, other in zip(fast.model.layers, reference.model.layers, strict=True):  # type: ignore[attr-defined]
        assert torch.allclose(mine.mlp(x), other.mlp(x), atol=1e-5)
        assert torch.allclose(mine.attention.qkv(x), other.attention.qkv(x), atol=1e-5)
    assert fast.weight_bytes < reference.weight_bytes


def test_ranks_hold_their_part_of_every_stored_tensor(
    checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "models"))
    from threaded_ranks import on_ranks

    folder = checkpoint()
    dense = quantize(folder)
    parts = on_ranks(2, lambda comm: load(folder, catalogue(), (Int8Kernel(),), comm).model)
    whole = dense["model.layers.0.mlp.down_proj"]
    for rank, part in enumerate(parts):
        down = part.layers[0].mlp.down  # type: ignore[attr-defined]
        assert down.packed["qweight"].shape == (64, 48)
        assert down.packed["scales"].shape == (3, 64)
        x = torch.eye(48)
        mine = Int8Kernel().apply(x, down.packed, None).t()
        assert torch.allclose(mine, whole[:, 48 * rank : 48 * (rank + 1)], atol=1e-6)


def test_a_split_that_cuts_a_group_is_refused(checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "models"))
    from threaded_ranks import on_ranks

    folder = checkpoint()
    quantize(folder)
    with pytest.raises(
        ConfigError, match=r"down_proj\.scales: features .* cut through.*smaller --tensor-parallel-size"
    ):
        on_ranks(4, lambda comm: load(folder, catalogue(), (), comm))


def test_merged_layers_that_differ_need_the_dense_kernel(checkpoint: Callable[..., Path]) -> None:
    folder = checkpoint()
    quantize(folder, lambda path: 0.25 if path.endswith("k_proj") else 0.5)
    load(folder, catalogue())
    with pytest.raises(ConfigError, match=r"self_attn.*differ in 'factor'.*--linear-backend torch"):
        load(folder, catalogue(), kernels=(Int8Kernel(),))


def test_a_missing_scale_is_named(checkpoint: Callable[..., Path]) -> None:
    folder = checkpoint()
    quantize(folder)
    held = load_file(folder / "model.safetensors")
    del held["model.layers.0.mlp.down_proj.scales"]
    save_file(held, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"lacks 1 tensors.*down_proj\.scales"):
        load(folder, catalogue())


def test_a_format_that_is_not_the_checkpoints(checkpoint: Callable[..., Path]) -> None:
    with pytest.raises(ConfigError, match="not quantized, which 'grouped8' reads"):
        load(checkpoint(), catalogue(), quantization="grouped8")


def test_experts_of_a_quantized_checkpoint_become_dense(checkpoint: Callable[..., Path]) -> None:
    folder = checkpoint("Qwen3MoeForCausalLM")
    dense = quantize(folder)
    experts = load(folder, catalogue()).model.layers[0].mlp.experts  # type: ignore[attr-defined]
    want = torch.cat([dense[f"model.layers.0.mlp.experts.5.{name}_proj"] for name in ("gate", "up")])
    assert torch.allclose(experts.gate_up[5], want)
    assert torch.allclose(experts.down[7], dense["model.layers.0.mlp.experts.7.down_proj"])
