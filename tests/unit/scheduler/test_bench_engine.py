"""``hardpoint bench engine`` measures what it says; no time is judged here."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner

from hardpoint.cli.bench_engine import engine


def test_every_point_is_measured_and_written(tmp_path: Path):
    path = tmp_path / "made" / "result.json"
    arguments = [
        "--running",
        "2",
        "--running",
        "5",
        "--queued",
        "7",
        "--steps",
        "20",
        "--prefix",
        "64",
        "--json",
        str(path),
    ]
    result = CliRunner().invoke(engine, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert "schedule + update" in result.output
    written = json.loads(path.read_text())
    assert [(row["running"], row["queued"]) for row in written["steps"]] == [(2, 0), (5, 0), (2, 7), (5, 7)]
    assert all(0 < row["p50_us"] <= row["p99_us"] for row in written["steps"])
    assert [row["tokens"] for row in written["prefix"]] == [64]
