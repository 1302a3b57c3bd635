"""A tiny model of each kind of cache, made once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hardpoint.testing.tiny_models import make_tiny
from throwaway import site

torch.set_num_threads(1)

#: One family with full attention only, and one with interleaved sliding windows (two KV groups).
FAMILIES = ("LlamaForCausalLM", "Gemma3ForCausalLM")


@pytest.fixture(scope="session", params=FAMILIES)
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a small random-weight checkpoint."""
    folder: Path = tmp_path_factory.mktemp(str(request.param))
    make_tiny(request.param, folder, seed=3)
    return folder


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a small random-weight Llama."""
    folder: Path = tmp_path_factory.mktemp("llama")
    make_tiny("LlamaForCausalLM", folder, seed=3)
    return folder


__all__ = ["site"]
