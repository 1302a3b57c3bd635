"""One spelling for what config.json files say in many.

A plugin of kind ``models`` may name a function under ``data["config"]`` of its descriptor, called with
``(raw, folder, trust)``: it fills in what checkpoints of the family leave out and returns the standard spelling, without
importing torch. In it these keys are always present:

``hidden_size``, ``num_hidden_layers``, ``num_attention_heads``, ``num_key_value_heads``, ``head_dim``, ``vocab_size``,
``max_position_embeddings``, ``rope_parameters`` (flat, or one per layer type), ``layer_types`` (``"full_attention"`` or
``"sliding_attention"`` per layer), ``sliding_window`` (``None`` without one), ``tie_word_embeddings``, ``dtype`` (torch's
name, or ``None`` when the file does not say).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from hardpoint.contract.errors import CheckpointError

FULL: Final = "full_attention"
SLIDING: Final = "sliding_attention"
_NEEDED: Final = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "max_position_embeddings")
_ROPE_KEYS: Final = ("rope_theta", "partial_rotary_factor", "original_max_position_embeddings")


def text_config(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return the text decoder's configuration: ``text_config`` over the outer keys where a file nests it."""
    nested = raw.get("text_config")
    if not isinstance(nested, Mapping):
        return dict(raw)
    outer = ("architectures", "dtype", "torch_dtype", "tie_word_embeddings", "quantization_config")
    return {**{name: raw[name] for name in outer if name in raw}, **nested}


def standard(raw: Mapping[str, Any], defaults: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return ``raw`` in the standard spelling, with a family's ``defaults`` for keys that it leaves out.

    Raises:
        CheckpointError: when a size is absent or is not a positive number.
    """
    config: dict[str, Any] = {"tie_word_embeddings": False, **(defaults or {}), **text_config(raw)}
    for name in _NEEDED:
        positive_int(config, name)
    heads = config["num_attention_heads"]
    if config.get("head_dim") is None:
        config["head_dim"] = config["hidden_size"] // heads
    if config.get("num_key_value_heads") is None:
        config["num_key_value_heads"] = heads
    for name in ("head_dim", "num_key_value_heads"):
        positive_int(config, name)
    if heads % config["num_key_value_heads"]:
        raise CheckpointError(
            f"config.json: {heads} attention heads are no multiple of {config['num_key_value_heads']} key/value heads"
        )
    config["dtype"] = _dtype(config)
    config["rope_parameters"] = _rope(config)
    config.setdefault("sliding_window", None)
    if config.get("layer_types") is None:
        kind = FULL if config["sliding_window"] is None else SLIDING
        config["layer_types"] = [kind] * config["num_hidden_layers"]
    if len(config["layer_types"]) < config["num_hidden_layers"]:
        raise CheckpointError(
            f"config.json: layer_types names {len(config['layer_types'])} layers of {config['num_hidden_layers']}"
        )
    return config


def positive_int(config: Mapping[str, Any], name: str) -> int:
    """Return an entry of a configuration that must be a positive whole number.

    Raises:
        CheckpointError: when it is not.
    """
    value = config.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        said = "is missing" if value is None else f"is {value!r}"
        raise CheckpointError(
            f"config.json: {name} {said}; it must be a positive whole number (or give it with --hf-overrides)"
        )
    return value


def _dtype(config: Mapping[str, Any]) -> str | None:
    name = config.get("dtype") or config.get("torch_dtype")
    return None if name is None or name == "auto" else str(name).removeprefix("torch.")


def _rope(config: Mapping[str, Any]) -> dict[str, Any]:
    given = config.get("rope_scaling") or config.get("rope_parameters") or {}
    if FULL in given or SLIDING in given:
        return {kind: _rope_of(params, config) for kind, params in given.items() if isinstance(params, Mapping)}
    return _rope_of(given, config)


def _rope_of(given: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    params = dict(given)
    params["rope_type"] = params.get("rope_type") or params.pop("type", None) or "default"
    for name in _ROPE_KEYS:
        if params.get(name) is None and config.get(name) is not None:
            params[name] = config[name]
    params.setdefault("rope_theta", 10000.0)
    return params
