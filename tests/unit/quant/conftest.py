"""A tiny checkpoint to quantize, and the way to load it on the host."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hardpoint.testing.tiny_models import make_tiny

sys.path.append(str(Path(__file__).parents[1] / "weights"))

#: Neither is a multiple of a block's side, both are of what kernels take.
SIZES = {"hidden_size": 192, "intermediate_size": 320, "num_hidden_layers": 2}


@pytest.fixture(scope="session")
def _pristine(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    root = tmp_path_factory.mktemp("pristine")

    def get(architecture: str) -> Path:
        folder = root / architecture
        return folder if folder.exists() else make_tiny(architecture, folder, **SIZES)

    return get


@pytest.fixture
def checkpoint(_pristine: Callable[[str], Path], tmp_path: Path) -> Callable[..., Path]:
    """Return a copy of a tiny checkpoint, by architecture."""

    def copy(architecture: str = "LlamaForCausalLM") -> Path:
        return Path(shutil.copytree(_pristine(architecture), tmp_path / architecture))

    return copy
