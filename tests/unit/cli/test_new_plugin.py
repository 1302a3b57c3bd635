"""What ``hardpoint new-plugin`` writes installs and passes its own tests, as it is written."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from hardpoint.cli import cli
from hardpoint.scaffold import KINDS, Scaffold


def installed(folder: Path) -> None:
    """Leave what an installer leaves of a package in its own folder."""
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    info = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    sections = [
        f"[{group}]\n" + "".join(f"{name} = {target}\n" for name, target in points.items())
        for group, points in project["entry-points"].items()
    ]
    (info / "entry_points.txt").write_text("\n".join(sections))


@pytest.mark.parametrize("kind", [pytest.param(k, marks=pytest.mark.slow) if k == "platform" else k for k in KINDS])
def test_the_package_passes_its_own_tests(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "made"
    result = CliRunner().invoke(cli, ["new-plugin", kind, "first_try", "--folder", str(folder)])
    assert result.exit_code == 0, result.output
    installed(folder)
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-p",
        "no:cacheprovider",
        "-c",
        os.devnull,
        str(folder / "tests"),
    ]
    run = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=900
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "passed" in run.stdout


@pytest.mark.parametrize("name", ["Fast", "1st", "a-b", "class", "", "a b", "../x"])
def test_names_that_cannot_be_are_refused(name: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["new-plugin", "ops", "--folder", str(tmp_path / "x"), "--", name])
    assert result.exit_code == 2
    assert "cannot name a plugin" in result.output
    assert not (tmp_path / "x").exists()


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("mine")
    result = CliRunner().invoke(cli, ["new-plugin", "ops", "mine", "--folder", str(tmp_path)])
    assert result.exit_code == 2
    assert "is not empty" in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_templates_of_every_kind_are_valid_python() -> None:
    for kind in KINDS:
        for path, text in Scaffold(kind=kind, name="some_thing").files().items():
            if path.endswith(".py"):
                compile(text, path, "exec")
