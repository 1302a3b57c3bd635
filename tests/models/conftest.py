"""Tiny checkpoints, written once for a test run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from hardpoint.testing.tiny_models import ROPE_VARIANTS, make_tiny


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny matrices are slower on many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the folder of a tiny checkpoint, by architecture or by rope variant."""
    made: dict[str, Path] = {}
    root = tmp_path_factory.mktemp("tiny")

    def get(name: str) -> Path:
        if name not in made:
            architecture, settings = ROPE_VARIANTS.get(name, (name, {}))
            made[name] = make_tiny(architecture, root / name, **settings)
        return made[name]

    return get


@pytest.fixture(scope="session")
def reference() -> Callable[[Path], Any]:
    """Return the transformers model of a folder, float32 and eager."""
    from transformers import AutoModelForCausalLM

    made: dict[Path, Any] = {}

    def get(folder: Path) -> Any:
        if folder not in made:
            model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32)
            made[folder] = model.eval()
        return made[folder]

    return get
