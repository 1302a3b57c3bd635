"""Mixed load with aborts for a minute on the CPU: blocks, memory and tokens are accounted for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu" / "soak.py"


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "seconds"), [("float32", 60), ("bfloat16", 20)])
def test_nothing_leaks_and_no_token_is_wrong(dtype: str, seconds: int) -> None:
    # oneDNN keeps a kernel for every shape that it has seen, up to 1,024 of them: not what is looked for here.
    few = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "8", "LRU_CACHE_CAPACITY": "8", "OMP_NUM_THREADS": "1"}
    arguments = [
        "--seconds",
        str(seconds),
        "--platform",
        "cpu",
        "--dtype",
        dtype,
        "--width",
        "16",
        "--set",
        "threads=1",
    ]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *arguments],
        env={**os.environ, **few},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    line = next((line for line in done.stdout.splitlines() if line.startswith("SOAK ")), "")
    assert line, done.stderr[-3000:]
    found = json.loads(line.removeprefix("SOAK "))
    assert found["failures"] == []
    assert done.returncode == 0
    # It was a load: requests of every kind ended by themselves and by abort, and some were preempted.
    assert {kind.partition(":")[0] for kind in found["kinds"]} == {
        "greedy", "known", "logprobs", "sampled", "several", "stop",
    }  # fmt: skip
    assert found["kinds"]["known: finished"] > 20
    assert found["kinds"]["known: aborted"] > 5
    assert found["preemptions"] > 0
    assert found["prefix_hits"] > 0
    assert found["growth_mib_per_minute"]["process"] < 60
