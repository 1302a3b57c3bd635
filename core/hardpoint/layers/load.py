"""From a configuration and a checkpoint to a model that is ready to run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import torch

from hardpoint.contract.errors import ConfigError
from hardpoint.contract.quant import DENSE, LinearScheme, OnlineMethod
from hardpoint.layers.attention import Attention
from hardpoint.layers.build import ModelBuild
from hardpoint.layers.linear import Linear
from hardpoint.layers.model import CausalModel
from hardpoint.weights.shape import model_shape

if TYPE_CHECKING:
    from hardpoint.config import EngineConfig
    from hardpoint.contract.attention import AttentionLayer, AttentionLayerConfig
    from hardpoint.contract.collectives import Communicator
    from hardpoint.contract.device import Device
    from hardpoint.contract.quant import LinearKernel, QuantFormat, QuantMethod
    from hardpoint.ops import OpTable
    from hardpoint.plugins import Catalogue
    from hardpoint.weights import ModelFiles


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A model with its weights.

    Attributes:
        model: call it with ids, positions and a step; ask it for logits.
        attention_layers: in layer order; each has ``config``, ``kv_spec`` and ``bind(kv, group)``.
        max_model_len: positions for which rotary tables were made.
        weight_bytes: memory that parameters and tables take on this rank.
        description: what was chosen, plain data for ``hardpoint explain``.
    """

    model: CausalModel
    attention_layers: tuple[Attention, ...]
    max_model_len: int
    weight_bytes: int
    description: dict[str, Any] = field(default_factory=dict)


@torch.inference_mode()
def load_model(
    config: EngineConfig,
    files: ModelFiles,
    catalogue: Catalogue,
    device: Device,
    comm: Communicator,
    ops: OpTable,
    attention: Callable[[AttentionLayerConfig], AttentionLayer],
    linear_kernels: Sequence[LinearKernel] = (),
    *,
    progress: bool = False,
) -> LoadedModel:
    """Build the model for this rank, fill its weights and pack its linear layers.

    Args:
        config: after adjustments; ``dtype`` and ``max_model_len`` may still be automatic.
        files: what :func:`hardpoint.weights.resolve` returned.
        attention: makes the kernels of one layer with the chosen backend (and block size); raises ``ConfigError`` with
            every backend's reasons when none takes the layer.
        linear_kernels: the platform's, in order of preference; plain ``torch`` products serve what none of them takes.
        progress: show a bar while weights are read.

    Raises:
        UnsupportedModelError: no installed plugin can run the architecture.
        CheckpointError: the weights are damaged, incomplete or do not fit.
        ConfigError: the model cannot be split over this many ranks, or a setting does not fit it.
    """
    from hardpoint.weights.dummy import random_weights
    from hardpoint.weights.loader import load_weights

    shape = model_shape(files)
    dtype = config.model.dtype
    if dtype == "auto":
        dtype = shape.dtype if shape.dtype in device.caps.dtypes else device.caps.preferred_dtype
    kv_dtype = config.cache.kv_cache_dtype
    build = ModelBuild(
        config=files.config,
        files=files,
        dtype=getattr(torch, dtype),
        device=device.torch_device,
        info=device.info,
        comm=comm,
        ops=ops,
        max_model_len=config.model.max_model_len or shape.context,
        attention_layer=attention,
        kernels=tuple(linear_kernels),
        quant=quant_format(config.model.quantization, files, catalogue),
        kv_dtype=dtype if kv_dtype == "auto" else kv_dtype,
        trust_remote_code=files.ref.trust,
    )
    if build.quant is not None:
        build.ignored.extend(build.quant.unread)
    model = cast("CausalModel", catalogue.create("models", files.plugin, build))
    if build.loader is not None:
        build.loader(config.model.load_format)
    if config.model.load_format == "dummy":
        random_weights(build, config.model.seed)
    elif build.loader is None:
        load_weights(build, files.folder, progress=progress)
    build.finish()
    return LoadedModel(
        model=model,
        attention_layers=tuple(build.attention_layers),
        max_model_len=build.max_model_len,
        weight_bytes=build.weight_bytes(),
        description=_describe(build, files, config.model.load_format),
    )


def quant_format(wanted: str | None, files: ModelFiles, catalogue: Catalogue) -> QuantFormat | None:
    """Return the quantization format of a checkpoint; ``None`` for a plain one or one whose model reads it itself.

    A dense checkpoint has a format too where the user names a method that quantizes while it loads.

    Raises:
        ConfigError: when no installed format reads it, or the user names another than the checkpoint's.
    """
    given = files.config.get("quantization_config")
    if wanted is None and not given:
        return None
    method = str((given or {}).get("quant_method", wanted))
    if method in catalogue.load("models", files.plugin).data.get("quantization", ()) and wanted in (None, method):
        return None
    installed = catalogue.names("quant_methods")
    names = installed if wanted is None else (wanted,)
    for name in names:
        found = cast("QuantMethod", catalogue.create("quant_methods", name))
        if given:
            if found.match(given):
                return found.read(given)
        elif isinstance(found, OnlineMethod):
            return found.online()
    if given:
        fault = f"quantized with {method!r}, which {'no installed format' if wanted is None else repr(wanted)} reads"
        way_out = "leave --quantization out" if wanted and method in installed else "use a checkpoint in bfloat16"
    else:
        fault = f"not quantized, which {wanted!r} reads no more than any other that its files do not name"
        way_out = "leave --quantization out, or name a method that quantizes while it loads"
    raise ConfigError(
        f"the checkpoint is {fault}; installed: {', '.join(installed) or 'none'}. Install a plugin of kind 'quant_methods', "
        f"or {way_out}"
    )


def _describe(build: ModelBuild, files: ModelFiles, load_format: str) -> dict[str, Any]:
    kernels = Counter(layer.kernel.name for layer in build.linears)
    schemes = Counter(layer.scheme.weight for layer in build.linears)
    return {
        "architecture": files.architecture,
        "implementation": files.plugin,
        "folder": str(files.folder),
        "weights": "random" if load_format == "dummy" else "safetensors",
        "dtype": build.dtype_name,
        "quantization": None if build.quant is None else build.quant.name,
        "linear_kernels": dict(kernels),
        "linear_schemes": dict(schemes),
        "linear_layers": _linear_layers(build),
        "linear_kernels_refused": {name: list(reasons) for name, reasons in build.refusals.items()},
        "rank": build.comm.rank,
        "ranks": build.comm.size,
        "weight_bytes": build.weight_bytes(),
    }


def _linear_layers(build: ModelBuild) -> list[dict[str, Any]]:
    """Return a row for each kind of linear layer: its names, how many there are, how they are stored and what runs them."""
    kinds = Counter(
        (
            "+".join(dict.fromkeys(part.paths[0].rpartition(".")[2] for part in layer.parts))
            if isinstance(layer, Linear)
            else layer.path,
            scheme_name(layer.scheme),
            scheme_name(layer.runs if isinstance(layer, Linear) else layer.scheme),
            layer.kernel.name,
        )
        for layer in build.linears
    )
    return [
        {"layers": names, "count": count, "stored": stored, "runs": runs, "kernel": kernel}
        for (names, stored, runs, kernel), count in kinds.items()
    ]


def scheme_name(scheme: LinearScheme) -> str:
    """Return a scheme in words, e.g. ``"fp8_e4m3, a scale per row, activations fp8_e4m3"``."""
    if scheme == DENSE:
        return scheme.weight
    scales = {-1: "a scale per tensor", 0: "a scale per row"}.get(scheme.group, f"a scale per {scheme.group}")
    return ", ".join([scheme.weight, scales, *([f"activations {scheme.activation}"] if scheme.activation else [])])
