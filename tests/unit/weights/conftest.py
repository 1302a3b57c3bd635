"""A tiny checkpoint to damage."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from hardpoint.testing.tiny_models import make_tiny


@pytest.fixture(scope="session")
def _pristine(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    root = tmp_path_factory.mktemp("pristine")

    def get(architecture: str) -> Path:
        folder = root / architecture
        return folder if folder.exists() else make_tiny(architecture, folder, num_hidden_layers=2)

    return get


@pytest.fixture
def checkpoint(_pristine: Callable[[str], Path], tmp_path: Path) -> Callable[..., Path]:
    """Return a copy of a tiny checkpoint, by architecture."""

    def copy(architecture: str = "LlamaForCausalLM") -> Path:
        return Path(shutil.copytree(_pristine(architecture), tmp_path / architecture))

    return copy
