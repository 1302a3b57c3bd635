"""Versions of the contract, one per plugin kind.

A plugin states the version that it was built for as ``(major, minor)``. It is accepted when the major version is equal
and its minor version is not newer than the one here: minor versions only add optional members.
"""

from __future__ import annotations

from typing import Final

Version = tuple[int, int]

#: Plugin kind -> the contract version that this core speaks. The entry-point group of a kind is ``hardpoint.<kind>``.
CONTRACT: Final[dict[str, Version]] = {
    "platforms": (1, 0),
    "attention_backends": (1, 0),
    "ops": (1, 0),
    "quant_methods": (1, 0),
    "linear_kernels": (1, 0),
    "models": (1, 0),
    "checkpoints": (1, 0),
    "adapter_sources": (1, 0),
    "tool_parsers": (1, 0),
    "reasoning_parsers": (1, 0),
    "grammars": (1, 0),
    "schedulers": (1, 0),
    "executors": (1, 0),
    "speculators": (1, 0),
    "kv_connectors": (1, 0),
    "logits_processors": (1, 0),
    "routes": (1, 0),
    "servers": (1, 0),
    "events": (1, 0),
}


def group(kind: str) -> str:
    """Return the entry-point group of a plugin kind, e.g. ``hardpoint.platforms``."""
    return f"hardpoint.{kind}"
