"""GPUs that are not here: models run through a platform's own code, and every kernel that they launch compiles for the chip."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton")

SCRIPT = Path(__file__).parents[1] / "ahead_of_time.py"
SLOW = pytest.mark.slow
#: Triton's back end, architecture, threads of a warp, local memory of a workgroup in bytes, and registers that a hot kernel
#: may spill.
TARGETS = {
    "gfx942": ("hip", "gfx942", "64", 64 << 10, 0),
    "gfx950": ("hip", "gfx950", "64", 160 << 10, 0),
    "gfx1100": ("hip", "gfx1100", "32", 64 << 10, 16),
    "sm90": ("cuda", "90", "32", 227 << 10, 0),
}
#: Kernels that multiply matrices: they must do so on the chip's matrix units.
PRODUCTS = {"few_rows", "attend", "attend_dense", "decode"}


@cache
def compiled(target: str, *architectures: str) -> list[dict[str, Any]]:
    """Return what the script tells of every kernel; it is a process of its own, as Triton may be interpreting in this one."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, str(SCRIPT), *TARGETS[target][:3], *architectures]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=900)
    assert run.returncode == 0, run.stderr[-3000:]
    return [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]


@pytest.mark.parametrize("target", ["gfx942", *(pytest.param(t, marks=SLOW) for t in ("gfx950", "gfx1100", "sm90"))])
def test_kernels_compile_for_the_chip_within_its_means(target: str) -> None:
    kernels = compiled(target, "LlamaForCausalLM")
    assert {kernel["kernel"] for kernel in kernels} >= {*PRODUCTS, "norm_rope", "_norm"}
    for kernel in kernels:
        assert kernel["shared"] <= TARGETS[target][3], (
            f"{kernel['kernel']} takes {kernel['shared']} bytes of local memory"
        )
        assert kernel["spills"] <= TARGETS[target][4], f"{kernel['kernel']} spills {kernel['spills']} registers"
        if kernel["kernel"] in PRODUCTS:
            assert kernel["matrix"], f"{kernel['kernel']} multiplies without the matrix units"


@pytest.mark.slow
@pytest.mark.parametrize("target", ["gfx942", "gfx950", "gfx1100"])
@pytest.mark.parametrize("architecture", ["Qwen3MoeForCausalLM", "Gemma3ForCausalLM", "GptOssForCausalLM"])
def test_other_families_compile(target: str, architecture: str) -> None:
    kernels = compiled(target, architecture)
    assert all(kernel["shared"] <= TARGETS[target][3] for kernel in kernels)
