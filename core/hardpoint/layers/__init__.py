"""What model files are written with: layers that know how they are split over ranks.

Names load on first use, so that descriptors of this package cost no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hardpoint.layers.attention import Attention
    from hardpoint.layers.build import ModelBuild
    from hardpoint.layers.embedding import Embedding, Head
    from hardpoint.layers.fusion import gated_activation
    from hardpoint.layers.linear import Linear, TorchLinear
    from hardpoint.layers.load import LoadedModel, load_model
    from hardpoint.layers.model import CausalModel
    from hardpoint.layers.moe import Experts, MoE
    from hardpoint.layers.norm import RMSNorm
    from hardpoint.layers.parameters import Parameter, Piece, Source
    from hardpoint.layers.step import StepContext

_HOMES = {
    "Attention": "attention",
    "ModelBuild": "build",
    "Embedding": "embedding",
    "Head": "embedding",
    "gated_activation": "fusion",
    "Linear": "linear",
    "TorchLinear": "linear",
    "LoadedModel": "load",
    "load_model": "load",
    "CausalModel": "model",
    "Experts": "moe",
    "MoE": "moe",
    "RMSNorm": "norm",
    "Parameter": "parameters",
    "Piece": "parameters",
    "Source": "parameters",
    "StepContext": "step",
}

__all__ = [
    "Attention",
    "CausalModel",
    "Embedding",
    "Experts",
    "Head",
    "Linear",
    "LoadedModel",
    "MoE",
    "ModelBuild",
    "Parameter",
    "Piece",
    "RMSNorm",
    "Source",
    "StepContext",
    "TorchLinear",
    "gated_activation",
    "load_model",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
