"""Where there is no GPU, the CUDA platform says so and what to do, and nothing falls back to the CPU in silence."""

from __future__ import annotations

import importlib.machinery
import subprocess
import sys
import types
from pathlib import Path

import pytest
from click.testing import CliRunner

from hardpoint import LLM, PluginError
from hardpoint.cli import cli
from hardpoint_cuda import nvml

REASON = "this machine has no NVIDIA driver"


@pytest.fixture(autouse=True)
def _without_driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Look for the driver where none is."""
    monkeypatch.setattr(nvml, "DRIVER", tmp_path / "version")


@pytest.mark.parametrize(
    "arguments",
    [
        ("explain", "shapes/qwen3-0.6b"),
        ("serve", "hardpoint/demo", "--port", "0"),
        ("complete", "Hello"),
        ("bench", "workload", "latency_b1", "--shape", "qwen3-0.6b"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_command_ends_with_the_reason_and_the_remedy(arguments: tuple[str, ...]) -> None:
    result = CliRunner().invoke(cli, [*arguments, "--platform", "cuda"])
    assert result.exit_code == 2
    assert REASON in result.output
    assert "--gpus all" in result.output
    assert "--platform cpu" in result.output
    assert "Traceback" not in result.output


def test_the_api_raises_the_same() -> None:
    with pytest.raises(PluginError, match=rf"'cuda' .*{REASON}; install it"):
        LLM(platform="cuda")


def test_a_driver_that_sees_no_device_is_told_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "version").write_text("NVRM version: 580\n")
    library = types.ModuleType("pynvml")
    library.__spec__ = importlib.machinery.ModuleSpec("pynvml", None)
    library.NVMLError = RuntimeError
    library.nvmlInit = library.nvmlShutdown = lambda: None
    library.nvmlDeviceGetCount = lambda: 0
    monkeypatch.setitem(sys.modules, "pynvml", library)
    with pytest.raises(PluginError, match=r"sees no GPU; .*--gpus all"):
        LLM(platform="cuda")


def test_a_driver_without_the_python_side_is_a_fault_with_the_command_that_mends_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "version").write_text("NVRM version: 580\n")
    find = nvml.importlib.util.find_spec
    monkeypatch.setattr(nvml.importlib.util, "find_spec", lambda name: None if name == "triton" else find(name))
    with pytest.raises(PluginError, match=r"triton.*pip install hardpoint\[cuda\]"):
        LLM(platform="cuda")


def test_probing_loads_no_torch() -> None:
    code = "import sys; from hardpoint_cuda.platform import CudaPlatform; CudaPlatform().probe(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
