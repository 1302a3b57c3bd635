"""Who may import whom, and what the core may not know."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CORE = ROOT / "core" / "hardpoint"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
VENDORS = {"amd", "cuda", "gaudi", "hip", "hpu", "intel", "mps", "npu", "nvidia", "rocm", "tpu", "triton", "xpu"}
MODULES = {"cupy", "flashinfer", "pynvml", "triton"}


def test_the_import_contracts_hold() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_shipped_package_is_under_contract() -> None:
    shipped = {Path(path).name for path in PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]}
    linted = PROJECT["tool"]["importlinter"]
    assert set(linted["root_packages"]) == shipped
    by_name = {contract["name"]: contract for contract in linted["contracts"]}
    plugins = shipped - {"hardpoint"}
    assert set(by_name["The core imports no plugin"]["forbidden_modules"]) == plugins
    assert set(by_name["Plugins never import each other"]["modules"]) == plugins


def test_every_entry_point_of_ours_is_in_a_shipped_package() -> None:
    shipped = {Path(path).name for path in PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]}
    for group, points in PROJECT["project"]["entry-points"].items():
        if group.startswith("hardpoint."):
            assert {target.partition(".")[0] for target in points.values()} <= shipped, group


def vendors_in(source: str) -> Iterator[str]:
    """Yield what in ``source`` is particular to a vendor: attributes, imports, and texts that are a vendor's name."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Attribute(value=ast.Name(id="torch"), attr=name) if name in VENDORS | {"accelerator"}:
                yield f"line {node.lineno}: torch.{name}"
            case ast.Attribute(attr=name) | ast.Name(id=name) if name.startswith("is_") and name[3:] in VENDORS:
                yield f"line {node.lineno}: {name}"
            case ast.Import(names=names):
                yield from (f"line {node.lineno}: import {n.name}" for n in names if _special(n.name))
            case ast.ImportFrom(module=str(module)) if _special(module):
                yield f"line {node.lineno}: from {module}"
            case ast.Constant(value=str(text)) if text.partition(":")[0].lower() in VENDORS:
                yield f"line {node.lineno}: {text!r}"


def _special(module: str) -> bool:
    parts = module.split(".")
    return parts[0] in MODULES or (parts[0] == "torch" and len(parts) > 1 and parts[1] in VENDORS | {"accelerator"})


@pytest.mark.parametrize(
    "code",
    [
        "torch.cuda.synchronize()",
        "x = torch.accelerator.current_device_index()",
        "if tensor.is_cuda: pass",
        "def f():\n    import triton.language as tl",
        "from torch.cuda import Stream",
        "if device.type == 'cuda': pass",
        "x.to('cuda:0')",
    ],
)
def test_the_search_finds_what_it_looks_for(code: str) -> None:
    assert list(vendors_in(code))


def test_the_core_names_no_vendor() -> None:
    found = {
        str(path.relative_to(ROOT)): names
        for path in sorted(CORE.rglob("*.py"))
        if (names := list(vendors_in(path.read_text())))
    }
    assert found == {}


def test_no_environment_variable_is_an_interface() -> None:
    """Children inherit the environment; nothing reads a setting from it."""
    reads = []
    for path in sorted(CORE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Subscript(value=ast.Attribute(attr="environ"), ctx=ast.Load()):
                    reads.append(f"{path.relative_to(ROOT)}:{node.lineno}")
                case ast.Attribute(value=ast.Attribute(attr="environ"), attr="get") | ast.Attribute(attr="getenv"):
                    reads.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert reads == []
