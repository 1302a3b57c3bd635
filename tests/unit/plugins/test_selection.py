"""What one process selected, another one loads, or says why it cannot."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from hardpoint.contract.errors import PluginError
from hardpoint.plugins import Catalogue, Selection, State
from throwaway import Site

WORKER = """
import json, sys
import msgspec
from hardpoint.contract.errors import PluginError
from hardpoint.plugins import Catalogue, Selection

found = Catalogue()
found.enforce(msgspec.json.decode(sys.argv[1], type=tuple[Selection, ...]))
try:
    answer = found.create("schedulers", "tidy").name
except PluginError as error:
    answer = str(error)
print(json.dumps([answer, "torch" in sys.modules]))
"""


def in_a_worker(folder: Path, selection: tuple[Selection, ...]) -> str:
    """Enforce a selection in a process that finds ``folder`` on its path, and return the policy's name or the error."""
    done = subprocess.run(
        [sys.executable, "-c", WORKER, msgspec.json.encode(selection).decode()],
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    answer, torch = json.loads(done.stdout)
    assert not torch, "the plugin layer imported torch"
    return str(answer)


def test_a_worker_loads_what_the_parent_selected(site: Site, policy: Callable[..., str], tmp_path: Path) -> None:
    policy()
    selection = Catalogue(["vendor-x"], entry_points=site.points()).selection()
    assert selection == (Selection("schedulers", "tidy", "vendor-x", "1.0"),)
    assert in_a_worker(tmp_path, selection) == "tidy", "the worker asked an allow-list again"


def test_a_worker_with_another_version_refuses(site: Site, policy: Callable[..., str], tmp_path: Path) -> None:
    policy(version="1.1")
    answer = in_a_worker(tmp_path, (Selection("schedulers", "tidy", "vendor-x", "1.0"),))
    assert "uses version 1.0, here is 1.1; install the same version" in answer


def test_a_worker_without_the_plugin_says_where_it_should_come_from(tmp_path: Path) -> None:
    answer = in_a_worker(tmp_path, (Selection("schedulers", "tidy", "vendor-x", "1.0"),))
    assert "takes it from vendor-x 1.0, which is not installed here" in answer


def test_a_worker_loads_nothing_else(site: Site, policy: Callable[..., str]) -> None:
    policy()
    policy("vendor-y", "other", head="raise SystemError('imported')\n")
    found = Catalogue(["*"], entry_points=site.points())
    selection = tuple(chosen for chosen in found.selection() if chosen.name == "tidy")
    found.enforce(selection)
    assert found.selection() == selection
    assert {r.name: r.state for r in found.records} == {"tidy": State.AVAILABLE, "other": State.BLOCKED}
    with pytest.raises(PluginError, match="the launching process did not select it"):
        found.load("schedulers", "other")


def test_of_two_with_one_name_the_worker_takes_the_selected_one(site: Site, policy: Callable[..., str]) -> None:
    policy("vendor-x")
    policy("vendor-y")
    parent = Catalogue(["*"], {"schedulers:tidy": "vendor-y"}, entry_points=site.points())
    worker = Catalogue(entry_points=site.points())
    worker.enforce(parent.selection())
    assert worker.select("schedulers", "tidy").distribution == "vendor-y"
