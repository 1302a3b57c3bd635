"""MXFP4 against values computed by hand from the OCP specification, and gpt-oss experts stored in it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from weights_rig import edit_config, load

from hardpoint.contract.errors import ConfigError
from hardpoint_models.mxfp4 import dequantize

_CODES = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]


def test_every_code_and_some_scales() -> None:
    packed = torch.tensor(
        [[[low | (high << 4) for low, high in zip(range(0, 16, 2), range(1, 16, 2), strict=True)] * 2]]
    )
    blocks = packed.to(torch.uint8).expand(3, 1, 16)
    scales = torch.tensor([[127], [130], [120]], dtype=torch.uint8)
    got = dequantize(blocks, scales, torch.float32)
    row = torch.tensor([*_CODES, *(-value for value in _CODES)] * 2)
    assert got.shape == (3, 32)
    for line, factor in zip(got, (1.0, 8.0, 2.0**-7), strict=True):
        assert torch.equal(line, row * factor)


def test_the_ends_of_the_scale() -> None:
    blocks = torch.full((1, 3, 16), 0x22, dtype=torch.uint8)
    got = dequantize(blocks, torch.tensor([[0, 254, 255]], dtype=torch.uint8), torch.float32)
    assert torch.equal(got[0, :32], torch.full((32,), 2.0**-127))
    assert torch.equal(got[0, 32:64], torch.full((32,), 2.0**127))
    assert got[0, 64:].isnan().all()


def quantize(dense: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return blocks, scales and the dense values that they stand for, of [E, rows, columns]."""
    grouped = dense.unflatten(-1, (-1, 32))
    exponents = grouped.abs().amax(-1, keepdim=True).clamp(min=1e-20).log2().floor() - 2
    table = torch.tensor([*_CODES, *(-value for value in _CODES)])
    codes = (grouped / 2.0**exponents).unsqueeze(-1).sub(table).abs().argmin(-1)
    stands_for = (table[codes] * 2.0**exponents).flatten(-2)
    blocks = (codes[..., ::2] | (codes[..., 1::2] << 4)).to(torch.uint8)
    return blocks, (exponents.squeeze(-1) + 127).to(torch.uint8), stands_for


def store_quantized(folder: Path) -> Path:
    """Rewrite a gpt-oss checkpoint as the hub has it; beside it one with the plain tensors of the same values."""
    held = load_file(folder / "model.safetensors")
    plain, packed = dict(held), dict(held)
    for name in [n for n in held if n.endswith(("gate_up_proj", "down_proj"))]:
        blocks, scales, dense = quantize(held[name].transpose(1, 2).contiguous())
        plain[name] = dense.transpose(1, 2).contiguous()
        del packed[name]
        packed[f"{name}_blocks"], packed[f"{name}_scales"] = blocks, scales
    save_file(packed, folder / "model.safetensors")
    beside = folder.parent / "plain"
    beside.mkdir()
    save_file(plain, beside / "model.safetensors")
    (beside / "config.json").write_text((folder / "config.json").read_text())
    edit_config(folder, quantization_config={"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]})
    return beside


def test_experts_in_mxfp4(tmp_path: Path, checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "models"))
    from threaded_ranks import on_ranks

    folder = checkpoint("GptOssForCausalLM")
    plain = store_quantized(folder)
    want, got = load(plain).model, load(folder).model
    for mine, other in zip(got.layers, want.layers, strict=True):  # type: ignore[attr-defined]
        assert torch.equal(mine.mlp.experts.gate_up, other.mlp.experts.gate_up)
        assert torch.equal(mine.mlp.experts.down, other.mlp.experts.down)
    # With four ranks a rank's part of the inner size is half a block.
    parts = on_ranks(4, lambda comm: load(folder, comm=comm).model)
    sys.modules.pop("threaded_ranks")
    for rank, part in enumerate(parts):
        whole = want.layers[0].mlp.experts  # type: ignore[attr-defined]
        mine = part.layers[0].mlp.experts  # type: ignore[attr-defined]
        assert torch.equal(mine.gate_up, whole.gate_up[:, 32 * rank : 32 * (rank + 1)])
        assert torch.equal(mine.down, whole.down[:, :, 16 * rank : 16 * (rank + 1)])


def test_another_model_in_mxfp4_is_refused(checkpoint: Callable[..., Path]) -> None:
    folder = checkpoint()
    edit_config(folder, quantization_config={"quant_method": "mxfp4"})
    with pytest.raises(ConfigError, match="quantized with 'mxfp4', which no installed format reads"):
        load(folder)
