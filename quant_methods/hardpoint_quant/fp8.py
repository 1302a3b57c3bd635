"""``quant_method: fp8``: checkpoints scaled by tensor or by block of 128 x 128, and dense weights while they load.

Read: ``FineGrainedFP8Config`` of ``transformers`` 5 (``activation_scheme``, ``weight_block_size``,
``modules_to_not_convert`` and its other name ``ignored_layers``, ``scale_fmt``; tensors ``weight``, ``weight_scale_inv``,
``activation_scale``), which DeepSeek-V3 and Qwen3-FP8 publish; and AutoFP8's files with the same method, whose tensors are
``weight``, ``weight_scale`` and ``input_scale``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final

import torch

from hardpoint.contract.errors import ConfigError
from hardpoint.contract.quant import DENSE, LinearScheme, TensorSpec
from hardpoint_quant import float8
from hardpoint_quant.layer_names import Skipped

_SCHEMES: Final = ("dynamic", "static")
#: Layers that stay dense when a dense checkpoint is quantized: what they decide is discrete, and they are small.
_ROUTERS: Final = ("gate", "router", "shared_expert_gate")
#: Scales of inputs, which are quantized by the token here, and of a cache in 8 bits.
_UNREAD: Final = (r"\.(input_scale|activation_scale)$", r"\.([kvq]|kv|prob|[kv]_proj\.(output|[kv]))_scale$")


class Fp8:
    """The method ``fp8``."""

    name: ClassVar[str] = "fp8"

    def match(self, quantization_config: Mapping[str, Any]) -> bool:
        return quantization_config.get("quant_method") == "fp8"

    def read(self, quantization_config: Mapping[str, Any]) -> Fp8Checkpoint:
        """Return the format of one checkpoint.

        Raises:
            ConfigError: for a setting that no published checkpoint has.
        """
        given = quantization_config
        activation = given.get("activation_scheme", "dynamic")
        if activation not in _SCHEMES:
            raise ConfigError(
                f"config.json: quantization_config.activation_scheme is {activation!r}; it must be "
                f"{' or '.join(map(repr, _SCHEMES))}; correct it with --hf-overrides"
            )
        for key, only in (
            ("scale_fmt", ("float", "ue8m0")),
            ("expert_dtype", ("fp8",)),
            ("fmt", ("e4m3", "float8_e4m3fn")),
        ):
            if given.get(key, only[0]) not in (*only, None):
                raise ConfigError(
                    f"config.json: quantization_config.{key} is {given[key]!r}, which is not read; "
                    f"{' and '.join(map(repr, only))} are; use a checkpoint in one of them or in bfloat16"
                )
        return Fp8Checkpoint(_group(given), Skipped.of(given, ("modules_to_not_convert", "ignored_layers")))

    def online(self) -> Fp8Online:
        """Return the format into which dense weights are quantized while they load."""
        return Fp8Online()


class Fp8Checkpoint:
    """The format of one checkpoint.

    Args:
        group: :data:`float8.PER_TENSOR` or :data:`float8.BLOCK`.
        skipped: layers that are dense.
    """

    name: ClassVar[str] = "fp8"
    unread: ClassVar[tuple[str, ...]] = _UNREAD

    def __init__(self, group: int, skipped: Skipped) -> None:
        self._scheme = float8.scheme(group)
        self._skipped = skipped

    def scheme(self, path: str) -> LinearScheme:
        return DENSE if path in self._skipped else self._scheme

    def tensors(self, scheme: LinearScheme, out_features: int, in_features: int) -> Mapping[str, TensorSpec]:
        also = ("weight_scale_inv", "scale")
        return float8.specs(scheme, out_features, in_features, also=also)

    def dequantize(self, scheme: LinearScheme, tensors: Mapping[str, torch.Tensor], dtype: torch.dtype) -> torch.Tensor:
        return float8.dequantize(tensors["weight"], tensors["weight_scale"], scheme.group, dtype)


class Fp8Online:
    """Dense weights, rounded to a scale for each row while they load. Routers stay as they are."""

    name: ClassVar[str] = "fp8"
    unread: ClassVar[tuple[str, ...]] = ()

    def scheme(self, path: str) -> LinearScheme:
        return DENSE if path.rpartition(".")[2] in _ROUTERS else float8.scheme(float8.PER_ROW)

    def tensors(self, scheme: LinearScheme, out_features: int, in_features: int) -> Mapping[str, TensorSpec]:
        return float8.specs(scheme, out_features, in_features)

    def dequantize(self, scheme: LinearScheme, tensors: Mapping[str, torch.Tensor], dtype: torch.dtype) -> torch.Tensor:
        return float8.dequantize(tensors["weight"], tensors["weight_scale"], scheme.group, dtype)

    def quantize(self, scheme: LinearScheme, weight: torch.Tensor) -> Mapping[str, torch.Tensor]:
        codes, scale = float8.quantize_rows(weight)
        return {"weight": codes, "weight_scale": scale}


def _group(given: Mapping[str, Any]) -> int:
    size = given.get("weight_block_size")
    if size is None:
        return float8.PER_TENSOR
    if not isinstance(size, (list, tuple)) or list(size) != [float8.BLOCK, float8.BLOCK]:
        raise ConfigError(
            f"config.json: quantization_config.weight_block_size is {size!r}; blocks of [128, 128] are read, and null for one "
            "scale a tensor; use a checkpoint with such scales or in bfloat16"
        )
    return float8.BLOCK
