"""Models of published shapes without weights: ``--model shapes/NAME --load-format dummy`` runs them with random ones."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from hardpoint.contract.descriptor import Descriptor
from hardpoint.contract.errors import ConfigError

PREFIX: Final = "shapes/"
_HERE: Final = Path(__file__).resolve().parent
#: What a run over a shape needs beside its name: there are neither weights nor a tokenizer.
SETTINGS: Final = {"load_format": "dummy", "skip_tokenizer_init": True}


def names() -> tuple[str, ...]:
    """Return the shapes that exist."""
    return tuple(sorted(path.parent.name for path in _HERE.glob("*/config.json")))


def folder(name: str) -> Path:
    """Return the folder with the config.json of a shape.

    Raises:
        ConfigError: when there is no such shape.
    """
    if name not in names():
        raise ConfigError(f"--shape is {name!r}; it must be one of {', '.join(names())}")
    return _HERE / name


def llama_8b() -> Path:
    """Return the folder of Llama 3 8B's shape."""
    return folder("llama-8b")


def qwen3_0_6b() -> Path:
    """Return the folder of Qwen3-0.6B's shape."""
    return folder("qwen3-0.6b")


def qwen3_30b_a3b() -> Path:
    """Return the folder of Qwen3-30B-A3B's shape."""
    return folder("qwen3-30b-a3b")


def _descriptor(name: str, function: str, summary: str) -> Descriptor:
    return Descriptor(
        kind="checkpoints",
        name=PREFIX + name,
        contract=(1, 0),
        implementation=f"hardpoint.bench.shapes:{function}",
        summary=summary,
    )


LLAMA_8B = _descriptor("llama-8b", "llama_8b", "Llama 3 8B's shape, random weights, no tokenizer")
QWEN3_0_6B = _descriptor("qwen3-0.6b", "qwen3_0_6b", "Qwen3-0.6B's shape, random weights, no tokenizer")
QWEN3_30B_A3B = _descriptor("qwen3-30b-a3b", "qwen3_30b_a3b", "Qwen3-30B-A3B's shape, random weights, no tokenizer")
