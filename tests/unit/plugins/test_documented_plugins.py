"""The examples of docs/plugins.md are real: they are the files that run here."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

from hardpoint.config import EngineConfig
from hardpoint.contract.policy import RequestView
from hardpoint.contract.version import CONTRACT
from hardpoint.engine.core import make_client
from hardpoint.engine.messages import EngineRequest
from hardpoint.params import SamplingParams
from hardpoint.plugins import Catalogue, Events
from hardpoint.testing.tiny_models import make_tiny
from throwaway import Site

ROOT = Path(__file__).parents[3]
VENDOR = ROOT / "tests" / "vendors" / "shortest_first"
README = (ROOT / "README.md").read_text()
TEXT = (ROOT / "docs" / "plugins.md").read_text()


def block(marker: str) -> str:
    """Return the code block that follows ``<!-- marker -->``."""
    found = re.search(rf"<!-- {re.escape(marker)} -->\n```\w+\n(.*?)```", TEXT, re.DOTALL)
    assert found, f"docs/plugins.md has no block {marker!r}"
    return found[1]


@pytest.fixture
def installed(site: Site) -> Site:
    """Install the vendor's package as its pyproject.toml describes it, without pip."""
    project = tomllib.loads((VENDOR / "pyproject.toml").read_text())["project"]
    kinds = {group.removeprefix("hardpoint."): points for group, points in project["entry-points"].items()}
    source = (VENDOR / "shortest_first.py").read_text()
    site.add(project["name"], {"shortest_first": source}, kinds, project["version"])
    return site


def test_the_readme_shows_the_file_that_runs() -> None:
    shown = re.search(r"<!-- file: shortest_first/shortest_first.py -->\n```python\n(.*?)```", README, re.DOTALL)
    assert shown
    assert shown[1] == (VENDOR / "shortest_first.py").read_text()


@pytest.mark.parametrize("name", ["shortest_first.py", "pyproject.toml"])
def test_the_documented_files_are_the_ones_that_run(name: str) -> None:
    assert block(f"file: shortest_first/{name}") == (VENDOR / name).read_text()


def request(order: int, arrival: float, num_prompt: int, max_tokens: int) -> RequestView:
    return RequestView(
        request_id=str(order),
        arrival=arrival,
        order=order,
        priority=0,
        num_prompt=num_prompt,
        max_tokens=max_tokens,
        tenant="",
    )


def test_the_example_orders_requests_by_size_and_starves_none(installed: Site) -> None:
    policy = Catalogue(["hardpoint-shortest-first"], entry_points=installed.points()).create(
        "schedulers", "shortest_first"
    )
    large, small, late = request(0, 0.0, 1000, 500), request(1, 0.1, 10, 20), request(2, 30.0, 1, 1)
    assert sorted([large, late, small], key=policy.key) == [small, large, late]


@pytest.mark.parametrize(("policy", "order"), [("fcfs", [1, 2]), ("shortest_first", [2, 1])])
def test_an_engine_runs_requests_in_the_order_of_the_policy(
    installed: Site, tmp_path: Path, policy: str, order: list[int]
) -> None:
    config = EngineConfig.of(
        model=str(make_tiny("LlamaForCausalLM", tmp_path / "model")),
        scheduling_policy=policy,
        allow_plugins=("hardpoint-shortest-first",),
        max_num_seqs=1,
        num_blocks=32,
        threads=1,
    )
    client = make_client(config, in_process=True)
    for handle, num_tokens in ((1, 20), (2, 2)):
        client.add(
            EngineRequest(
                request_id=str(handle),
                handles=(handle,),
                token_ids=np.arange(5, 5 + num_tokens, dtype=np.int32),
                params=SamplingParams(temperature=0.0, max_tokens=num_tokens, ignore_eos=True),
            )
        )
    finished: list[int] = []
    for _ in range(100):
        outputs = client.poll(0.0)
        finished += [finish.handle for finish in outputs.finished] if outputs else []
    client.close()
    assert finished == order


def test_the_example_is_found_on_the_path_by_the_command_line(installed: Site) -> None:
    command = [sys.executable, "-m", "hardpoint", "plugins", "--kind", "schedulers", "--check"]
    for state, allow in (("blocked", ()), ("works", ("--allow-plugins", "hardpoint-shortest-first"))):
        done = subprocess.run(
            [*command, *allow],
            env={**os.environ, "PYTHONPATH": str(installed.path)},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        (line,) = [line for line in done.stdout.splitlines() if "shortest_first" in line]
        assert state in line.split(), done.stdout + done.stderr


def test_the_documented_listener_listens(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    (site.path / "documented_listener.py").write_text(block("example: events"))
    events = Events()
    events.register("audit", importlib.import_module("documented_listener").Audit())
    events.emit("request_finished", request_id="a", reason="stop", num_prompt=3, num_generated=5)
    assert capsys.readouterr().out == "a stop 5\n"


def test_the_documented_test_passes(installed: Site) -> None:
    (installed.path / "documented_test.py").write_text(block("example: testing"))
    importlib.import_module("documented_test")


def test_every_kind_is_documented() -> None:
    assert set(re.findall(r"^\| `(\w+)` \|", TEXT, re.MULTILINE)) == set(CONTRACT)
