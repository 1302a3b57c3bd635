"""Configurations of architectures without native code, as ``transformers`` understands them. Imports no torch itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from hardpoint.contract.errors import CheckpointError, UnsupportedModelError


def hf_config(raw: Mapping[str, Any], folder: Path, trust: bool) -> Any:
    """Return the ``transformers`` configuration object for config.json's content.

    Raises:
        UnsupportedModelError: when the model type is unknown to ``transformers``, or needs code that is not trusted.
        CheckpointError: when the content does not fit the model type.
    """
    from transformers import AutoConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    kind = raw.get("model_type")
    own_code = isinstance(raw.get("auto_map"), Mapping) and "AutoConfig" in raw["auto_map"]
    if own_code and trust:
        config_class = type(AutoConfig.from_pretrained(folder, trust_remote_code=True))
    elif kind in CONFIG_MAPPING:
        config_class = CONFIG_MAPPING[kind]
    elif own_code:
        raise UnsupportedModelError(
            f"model type {kind!r} comes with code of its own in {folder}, which does not run unless it is trusted; read it, "
            "then use --trust-remote-code"
        )
    else:
        raise UnsupportedModelError(
            f"model type {kind!r} is unknown to Hardpoint and to the installed transformers; a newer transformers may know it"
        )
    try:
        return config_class.from_dict(dict(raw))
    except Exception as error:
        raise CheckpointError(f"{folder / 'config.json'} is no valid configuration of {kind!r}: {error}") from error


_SERVED_LAYERS: Final = frozenset({"full_attention", "sliding_attention", "attention"})


def refuse_by_config(config: Any, architecture: str) -> None:
    """Raise when a configuration alone says that the model cannot be served.

    Raises:
        UnsupportedModelError: with every reason.
    """
    text = config.get_text_config(decoder=True)
    reasons = []
    if getattr(config, "is_encoder_decoder", False):
        reasons.append("it is an encoder and a decoder; only decoders are served")
    if not getattr(text, "num_attention_heads", None):
        reasons.append("it has no attention heads: its state is recurrent and no paged cache")
    others = sorted(set(getattr(text, "layer_types", None) or ()) - _SERVED_LAYERS)
    if others:
        reasons.append(f"it has layers of type {', '.join(others)}, which paged attention does not serve")
    if reasons:
        raise unsupported(architecture, reasons)


def unsupported(architecture: str, reasons: list[str]) -> UnsupportedModelError:
    """Return the error for a model that neither native code nor the fallback can run."""
    return UnsupportedModelError(
        f"{architecture} has no native code and cannot run through the transformers fallback: {'; '.join(reasons)}"
    )


def standard_of(config: Any) -> dict[str, Any]:
    """Return the standard keys (see :mod:`hardpoint.weights.standard`) of a configuration object's text decoder.

    Raises:
        CheckpointError: when a size is absent.
    """
    text = config.get_text_config(decoder=True)
    heads = _size(text, "num_attention_heads")
    hidden, layers = _size(text, "hidden_size"), _size(text, "num_hidden_layers")
    types = list(getattr(text, "layer_types", None) or [])
    window = getattr(text, "sliding_window", None) or None
    dtype = getattr(config, "dtype", None) or getattr(text, "dtype", None)
    return {
        **text.to_dict(),
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": getattr(text, "num_key_value_heads", None) or heads,
        "head_dim": getattr(text, "head_dim", None) or hidden // heads,
        "vocab_size": _size(text, "vocab_size"),
        "max_position_embeddings": _size(text, "max_position_embeddings"),
        "layer_types": types or ["full_attention" if window is None else "sliding_attention"] * layers,
        "sliding_window": window,
        "tie_word_embeddings": bool(getattr(config, "tie_word_embeddings", False)),
        "dtype": None if dtype is None else str(dtype).removeprefix("torch."),
    }


def _size(config: Any, name: str) -> int:
    value = getattr(config, name, None)
    if not isinstance(value, int) or value < 1:
        raise CheckpointError(
            f"config.json of model type {config.model_type!r} gives no {name} ({value!r}); add it with --hf-overrides"
        )
    return value
