"""``quant_method: compressed-tensors``: the part in 8-bit floats.

Read: ``QuantizationConfig`` of the library compressed-tensors (0.12): ``config_groups`` of ``targets``, ``weights`` and
``input_activations``, each with ``num_bits``, ``type``, ``strategy``, ``symmetric``, ``dynamic`` and ``block_structure``;
``ignore``. Tensors: ``weight`` in E4M3, ``weight_scale`` [1], [out, 1] or [blocks of out, blocks of in] in any float type,
``input_scale`` where activations are static.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final

import torch

from hardpoint.contract.errors import ConfigError
from hardpoint.contract.quant import DENSE, LinearScheme, TensorSpec
from hardpoint_quant import float8
from hardpoint_quant.layer_names import selects, strings

_STRATEGIES: Final = {"tensor": float8.PER_TENSOR, "channel": float8.PER_ROW, "block": float8.BLOCK}
_INPUTS: Final = ("tensor", "token", "group")
#: Scales of inputs, which are quantized by the token here, of a cache in 8 bits, and zero points of symmetric formats.
_UNREAD: Final = (r"\.input_scale$", r"\.([kvq]|[kv]_proj\.output)_scale$", r"\.(weight|input)_zero_point$")
_WAY_OUT: Final = "use a checkpoint in 8-bit floats (llm-compressor's FP8 or FP8_DYNAMIC) or in bfloat16"


class CompressedTensors:
    """The method ``compressed-tensors``."""

    name: ClassVar[str] = "compressed-tensors"

    def match(self, quantization_config: Mapping[str, Any]) -> bool:
        return quantization_config.get("quant_method") == "compressed-tensors"

    def read(self, quantization_config: Mapping[str, Any]) -> CompressedFloat8:
        """Return the format of one checkpoint.

        Raises:
            ConfigError: for weights or activations in another type than 8-bit floats, or a damaged configuration.
        """
        groups = quantization_config.get("config_groups")
        if not isinstance(groups, Mapping) or not groups:
            raise ConfigError(
                f"config.json: quantization_config.config_groups is {groups!r}; it must name at least one group"
            )
        sparsity = (quantization_config.get("sparsity_config") or {}).get("format", "dense")
        if sparsity != "dense":
            raise ConfigError(f"config.json: quantization_config.sparsity_config.format is {sparsity!r}; {_WAY_OUT}")
        rules: list[tuple[str, LinearScheme]] = []
        for name, group in groups.items():
            where = f"quantization_config.config_groups.{name}"
            if not isinstance(group, Mapping):
                raise ConfigError(f"config.json: {where} is {group!r}; it must be an object")
            found = _scheme(where, group)
            rules += [(target, found) for target in strings(group.get("targets", ["Linear"]), f"{where}.targets")]
        ignored = strings(quantization_config.get("ignore") or [], "quantization_config.ignore")
        return CompressedFloat8(tuple(rules), tuple(ignored))


class CompressedFloat8:
    """The format of one checkpoint.

    Args:
        rules: ``(target, scheme)``; a target is ``"Linear"``, a layer's path, or ``"re:"`` and a pattern.
        ignored: layers that are dense, spelled like targets.
    """

    name: ClassVar[str] = "compressed-tensors"
    unread: ClassVar[tuple[str, ...]] = _UNREAD

    def __init__(self, rules: tuple[tuple[str, LinearScheme], ...], ignored: tuple[str, ...]) -> None:
        # Names of layers come before patterns, those before the class, as the library resolves them.
        self._rules = sorted(rules, key=lambda rule: 2 if rule[0] == "Linear" else rule[0].startswith("re:"))
        self._ignored = ignored

    def scheme(self, path: str) -> LinearScheme:
        if any(selects(name, path) for name in self._ignored):
            return DENSE
        return next((s for target, s in self._rules if target == "Linear" or selects(target, path)), DENSE)

    def tensors(self, scheme: LinearScheme, out_features: int, in_features: int) -> Mapping[str, TensorSpec]:
        return float8.specs(scheme, out_features, in_features)

    def dequantize(self, scheme: LinearScheme, tensors: Mapping[str, torch.Tensor], dtype: torch.dtype) -> torch.Tensor:
        return float8.dequantize(tensors["weight"], tensors["weight_scale"], scheme.group, dtype)


def _scheme(where: str, group: Mapping[str, Any]) -> LinearScheme:
    weights, inputs = group.get("weights"), group.get("input_activations")
    if not isinstance(weights, Mapping):
        raise ConfigError(f"config.json: {where}.weights is {weights!r}; {_WAY_OUT}")
    _float8(f"{where}.weights", weights)
    strategy = weights.get("strategy", "tensor")
    if strategy not in _STRATEGIES:
        raise ConfigError(
            f"config.json: {where}.weights.strategy is {strategy!r}; {', '.join(_STRATEGIES)} are read; {_WAY_OUT}"
        )
    if strategy == "block":
        _block(where, weights.get("block_structure"))
    if inputs is not None:
        if not isinstance(inputs, Mapping):
            raise ConfigError(f"config.json: {where}.input_activations is {inputs!r}; it must be an object or null")
        _float8(f"{where}.input_activations", inputs)
        if inputs.get("strategy", "tensor") not in _INPUTS:
            raise ConfigError(
                f"config.json: {where}.input_activations.strategy is {inputs['strategy']!r}; {', '.join(_INPUTS)} are read; "
                f"{_WAY_OUT}"
            )
    return float8.scheme(_STRATEGIES[strategy], activations=inputs is not None)


def _float8(where: str, args: Mapping[str, Any]) -> None:
    kind, bits = args.get("type", "int"), args.get("num_bits", 8)
    if (kind, bits) != ("float", 8):
        raise ConfigError(f"config.json: {where} is of type {kind!r} with {bits!r} bits, which is not read; {_WAY_OUT}")
    if args.get("symmetric", True) is not True:
        raise ConfigError(f"config.json: {where}.symmetric is {args['symmetric']!r}; 8-bit floats have no zero point")


def _block(where: str, structure: Any) -> None:
    sides = structure.split("x") if isinstance(structure, str) else structure
    if not isinstance(sides, (list, tuple)) or [str(side) for side in sides] != [str(float8.BLOCK)] * 2:
        raise ConfigError(
            f"config.json: {where}.weights.block_structure is {structure!r}; blocks of [128, 128] are read; {_WAY_OUT}"
        )
