"""docs/hardware.md: every leak has its line, and every test that it names exists."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "hardware.md").read_text()
ROWS = re.findall(r"^\| (L\d+) \|(.+)\| `([^`]+)` \|$", TEXT, re.MULTILINE)


def test_every_leak_has_a_line() -> None:
    assert [number for number, _, _ in ROWS] == [f"L{i}" for i in range(1, 27)]


def test_the_tests_that_it_names_exist() -> None:
    for number, _, target in ROWS:
        path, _, name = target.partition("::")
        assert (ROOT / path).is_file(), f"{number}: {path}"
        assert f"def {name}(" in (ROOT / path).read_text(), f"{number}: {target}"


def test_the_sizes_of_the_packages_are_as_told() -> None:
    for vendor, files, lines in re.findall(r"^\| `(\w+)`:.*\| (\d+) \| (\d+) \| 0 \|$", TEXT, re.MULTILINE):
        found = list((ROOT / "tests" / "vendors" / vendor).glob("*/*.py"))
        assert len(found) == int(files)
        assert sum(len(path.read_text().splitlines()) for path in found) == int(lines)


def test_the_groups_that_it_names_exist() -> None:
    suite = ROOT / "core" / "hardpoint" / "testing" / "conformance"
    for group in re.findall(r"[Gg]roups?: ((?:`\w+`(?:, )?)+)", TEXT):
        for name in re.findall(r"`(\w+)`", group):
            assert (suite / f"test_{name}.py").is_file(), name


def test_the_reference_is_what_the_contract_says() -> None:
    spec = importlib.util.spec_from_file_location("make_reference", ROOT / "docs" / "make_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (ROOT / "docs" / "reference.md").read_text() == module.reference(), "run python docs/make_reference.py"
