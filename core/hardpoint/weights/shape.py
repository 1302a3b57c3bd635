"""What a platform may know about a model before it is built."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hardpoint.contract.platform import ModelShape
from hardpoint.weights.standard import SLIDING, positive_int

if TYPE_CHECKING:
    from hardpoint.weights.repo import ModelFiles

_SAFETENSORS_DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}


def model_shape(files: ModelFiles) -> ModelShape:
    """Return a model's sizes from its configuration; the element type from its tensors where the former is silent.

    Raises:
        CheckpointError: when a size is missing.
    """
    config = files.config
    heads = positive_int(config, "num_attention_heads")
    sliding = SLIDING in config.get("layer_types", ())
    window = config.get("sliding_window")
    return ModelShape(
        architecture=files.architecture,
        num_layers=positive_int(config, "num_hidden_layers"),
        hidden_size=positive_int(config, "hidden_size"),
        num_heads=heads,
        num_kv_heads=int(config.get("num_key_value_heads") or heads),
        head_size=int(config.get("head_dim") or config["hidden_size"] // heads),
        vocab_size=positive_int(config, "vocab_size"),
        context=positive_int(config, "max_position_embeddings"),
        dtype=config.get("dtype") or _stored_dtype(files),
        windows=(int(window),) if sliding and window else (),
        num_experts=int(config.get("num_experts") or config.get("num_local_experts") or 0),
    )


def _stored_dtype(files: ModelFiles) -> str:
    from safetensors import SafetensorError, safe_open

    for path in sorted(files.folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="np") as tensors:
                for name in tensors.keys():  # noqa: SIM118 - the handle is no mapping
                    found = _SAFETENSORS_DTYPES.get(tensors.get_slice(name).get_dtype())
                    if found is not None:
                        return found
        except SafetensorError:
            # Loading will say what is wrong with the file; the type is all that is asked for here.
            continue
    return "float32"
