"""Hardpoint: an LLM inference and serving runtime whose hardware, quantization and parsers are plugins.

Importing this package loads no torch; each public name is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hardpoint.config import EngineConfig
    from hardpoint.contract.errors import (
        ConfigError,
        EngineDeadError,
        HardpointError,
        PluginError,
        RequestError,
    )
    from hardpoint.engine.async_engine import AsyncEngine
    from hardpoint.llm import LLM
    from hardpoint.outputs import CompletionOutput, RequestOutput
    from hardpoint.params import BeamSearchParams, RequestOutputKind, SamplingParams, StructuredOutputsParams

    __version__: str

_HOMES = {
    "LLM": "hardpoint.llm",
    "AsyncEngine": "hardpoint.engine.async_engine",
    "BeamSearchParams": "hardpoint.params",
    "CompletionOutput": "hardpoint.outputs",
    "ConfigError": "hardpoint.contract.errors",
    "EngineConfig": "hardpoint.config",
    "EngineDeadError": "hardpoint.contract.errors",
    "HardpointError": "hardpoint.contract.errors",
    "PluginError": "hardpoint.contract.errors",
    "RequestError": "hardpoint.contract.errors",
    "RequestOutput": "hardpoint.outputs",
    "RequestOutputKind": "hardpoint.params",
    "SamplingParams": "hardpoint.params",
    "StructuredOutputsParams": "hardpoint.params",
}

__all__ = [
    "LLM",
    "AsyncEngine",
    "BeamSearchParams",
    "CompletionOutput",
    "ConfigError",
    "EngineConfig",
    "EngineDeadError",
    "HardpointError",
    "PluginError",
    "RequestError",
    "RequestOutput",
    "RequestOutputKind",
    "SamplingParams",
    "StructuredOutputsParams",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        value: Any = importlib.import_module("importlib.metadata").version("hardpoint")
    elif name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
