"""The command itself: what it imports, how it fails."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import hardpoint
from hardpoint.cli import COMMANDS, cli
from hardpoint.cli.bench import BENCHMARKS
from hardpoint.cli.lazy import LazyGroup
from hardpoint.contract.errors import ConfigError, PluginError


def python(code: str) -> str:
    """Run ``code`` in a fresh interpreter and return what it printed."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    return done.stdout


@pytest.mark.parametrize("action", ["", "hardpoint.SamplingParams", "hardpoint.EngineConfig", "hardpoint.PluginError"])
def test_importing_hardpoint_loads_no_torch(action: str) -> None:
    heavy = ["torch", "transformers", "fastapi", "zmq", "numpy"][: 5 if not action else 2]
    found = python(
        f"import json, sys, hardpoint; {action}\nprint(json.dumps([m for m in {heavy!r} if m in sys.modules]))"
    )
    assert json.loads(found) == []


def test_every_public_name_is_found_where_it_lives() -> None:
    for name in hardpoint.__all__:
        found = getattr(hardpoint, name)
        assert found is getattr(hardpoint, name)
        assert isinstance(found, str) or found.__module__.startswith("hardpoint.")
    assert set(hardpoint.__all__) <= set(dir(hardpoint))
    with pytest.raises(AttributeError, match="no attribute 'LLLM'"):
        _ = hardpoint.LLLM


def test_help_imports_no_subcommand() -> None:
    places = [place.partition(":")[0] for place, _ in COMMANDS.values()]
    code = f"""
import json, sys
from click.testing import CliRunner
from hardpoint.cli import cli
text = CliRunner().invoke(cli, ["--help"]).output
print(json.dumps([text, [m for m in {[*places, "torch"]!r} if m in sys.modules]]))
"""
    text, imported = json.loads(python(code))
    assert imported == []
    for name, (_, about) in COMMANDS.items():
        assert any(line.split() == [name, *about.split()] for line in text.splitlines()), text


@pytest.mark.parametrize(
    "path", [*([name] for name in COMMANDS), *(["bench", name] for name in BENCHMARKS)], ids=" ".join
)
def test_every_subcommand_exists_and_has_help(path: list[str]) -> None:
    result = CliRunner().invoke(cli, [*path, "--help"], prog_name="hardpoint", catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert result.output.startswith(f"Usage: hardpoint {' '.join(path)} ")
    assert "--debug" in result.output


def test_the_version_is_the_distribution() -> None:
    assert CliRunner().invoke(cli, ["--version"]).output == f"hardpoint {hardpoint.__version__}\n"


def test_an_unknown_subcommand_is_told_with_the_nearest() -> None:
    result = CliRunner().invoke(cli, ["srve"])
    assert (result.exit_code, "did you mean 'serve'?" in result.output) == (2, True)
    result = CliRunner().invoke(cli, ["bench", "nothing"])
    assert (result.exit_code, "latency, throughput, serve, engine" in result.output) == (2, True)


@click.command()
@click.option("--kind")
def failing(kind: str) -> None:
    """Fail."""
    raise {"config": ConfigError, "plugin": PluginError, "bug": ZeroDivisionError}[kind](
        "block_size is 3; it must be even"
    )


@pytest.fixture
def with_failing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(cli, LazyGroup)
    monkeypatch.setitem(cli.places, "failing", (f"{__name__}:failing", "Fail."))


@pytest.mark.usefixtures("with_failing")
@pytest.mark.parametrize("kind", ["config", "plugin"])
def test_what_hardpoint_raises_on_purpose_is_one_message(kind: str) -> None:
    result = CliRunner().invoke(cli, ["failing", "--kind", kind])
    assert result.exit_code == 2
    assert result.output == "Error: block_size is 3; it must be even\n"


@pytest.mark.usefixtures("with_failing")
@pytest.mark.parametrize(
    "arguments", [["--debug", "failing", "--kind", "config"], ["failing", "--kind", "config", "--debug"]]
)
def test_debug_shows_where_it_comes_from(arguments: list[str]) -> None:
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 2
    assert "Traceback" in result.output
    assert "in failing" in result.output
    assert result.output.endswith("Error: block_size is 3; it must be even\n")


@pytest.mark.usefixtures("with_failing")
def test_a_fault_of_ours_keeps_its_traceback() -> None:
    result = CliRunner().invoke(cli, ["failing", "--kind", "bug"])
    assert (result.exit_code, type(result.exception)) == (1, ZeroDivisionError)


def test_the_module_can_be_run(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hardpoint", "plugins", "--prefer-plugins", '{"tidy": "x"}']
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("Error: prefer_plugins has the key 'tidy'")
    assert "Traceback" not in done.stderr
