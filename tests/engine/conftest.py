"""A tiny model of each kind of cache, made once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from hardpoint.testing.tiny_models import make_tiny

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


def prompts_with_shared_prefixes(count: int, vocab: int, seed: int = 0) -> list[list[int]]:
    """Return prompts of 1 to 90 tokens; every third one extends the one before it."""
    rng = np.random.default_rng(seed)
    prompts: list[list[int]] = []
    for i in range(count):
        body = rng.integers(3, vocab, size=int(rng.integers(1, 60))).tolist()
        prompts.append(prompts[-1] + body[:30] if i % 3 == 2 else body)
    return prompts
