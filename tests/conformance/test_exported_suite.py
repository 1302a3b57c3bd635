"""The exported suite on the platform that every machine has, run as a vendor would run it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


def run(where: Path, *options: str) -> dict[str, Any]:
    record = where / "report.json"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--pyargs", "hardpoint.testing.conformance",
               "--platform", "cpu", "--conformance-json", str(record), *options]  # fmt: skip
    done = subprocess.run(
        command,
        cwd=where,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=1800,
    )
    assert record.exists(), done.stdout + done.stderr
    found: dict[str, Any] = json.loads(record.read_text())
    assert found["totals"].get("failed", 0) == 0, done.stdout
    assert "cpu conforms" in done.stdout
    return found


def test_the_quick_groups_pass_and_refusals_have_reasons(tmp_path: Path) -> None:
    found = run(tmp_path, "-k", "test_kv or test_contract or test_collectives or test_memory or test_staging")
    groups = {case["group"] for case in found["cases"] if case["outcome"] == "passed"}
    assert groups == {"kv", "contract", "collectives", "memory", "staging"}
    assert found["contract"] == "1.0"
    assert all(case["reason"] for case in found["cases"] if case["outcome"] == "refused")


def test_a_platform_without_a_device_ends_the_suite_with_its_reason(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "--pyargs", "hardpoint.testing.conformance", "--platform", "rocm"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)
    if done.returncode == 0:
        pytest.skip("this machine has an AMD GPU")
    assert "platform 'rocm' has no device here" in done.stdout + done.stderr


@pytest.mark.slow
def test_the_whole_suite_passes(tmp_path: Path) -> None:
    run(tmp_path)
