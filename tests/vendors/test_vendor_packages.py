"""Outside packages, installed by pip beside the checkout, against the conformance suite as their vendors would run it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hardpoint.testing.tiny_models import make_tiny

VENDORS = Path(__file__).parent
#: What a vendor's pull request would run on every push; the rest is marked slow here.
QUICK = "test_collectives or test_contract or test_memory or test_staging or test_scheduler or test_patches or test_prepare or test_streams"


@pytest.fixture(scope="module", params=["acme", "numpy_runner"])
def vendor(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A package's platform, and the folder into which pip put the package and nothing else."""
    site = tmp_path_factory.mktemp(request.param)
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--target",
        str(site),
        str(VENDORS / request.param),
    ]
    subprocess.run(command, check=True, timeout=300)
    return {"acme": "acme", "numpy_runner": "numpy"}[request.param], site


def conformance(vendor: tuple[str, Path], where: Path, *options: str) -> dict[str, Any]:
    """Run the suite in a process of its own, away from the checkout, and return its report."""
    platform, site = vendor
    record = where / "report.json"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--pyargs", "hardpoint.testing.conformance",
               "--platform", platform, "--conformance-json", str(record), *options]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, cwd=where, env=environment, capture_output=True, text=True, check=False, timeout=1800)
    assert record.exists(), run.stdout + run.stderr
    found: dict[str, Any] = json.loads(record.read_text())
    assert found["totals"].get("failed", 0) == 0, run.stdout
    assert f"{platform} conforms" in run.stdout
    return found


def test_the_quick_groups_pass(vendor: tuple[str, Path], tmp_path: Path) -> None:
    found = conformance(vendor, tmp_path, "-k", QUICK)
    assert found["platform"] == vendor[0]
    groups = {case["group"] for case in found["cases"] if case["outcome"] == "passed"}
    assert {"contract", "scheduler", "patches"} <= groups
    assert all(case["reason"] for case in found["cases"] if case["outcome"] == "refused")


_RUN = """
import json, sys
from hardpoint import LLM, SamplingParams
llm = LLM(sys.argv[1], platform=sys.argv[2], allow_plugins=(sys.argv[3],), skip_tokenizer_init=True, max_model_len=96,
          kv_cache_memory="16M")
params = SamplingParams(temperature=0.0, max_tokens=8, ignore_eos=True, detokenize=False)
done = llm.generate([{"prompt_token_ids": [3, 1, 4, 1, 5]}, {"prompt_token_ids": [9] * 40}], params, use_tqdm=False)
changes = llm.info.config["adjustments"]
opened = "hardpoint_acme" in sys.modules and sys.modules["hardpoint_acme.driver"].opened()
llm.close()
print(json.dumps({"tokens": [len(o.outputs[0].token_ids) for o in done], "changes": changes, "opened": opened}))
"""


def test_the_engine_runs_where_the_driver_wants_it(vendor: tuple[str, Path], tmp_path: Path) -> None:
    platform, site = vendor
    make_tiny("LlamaForCausalLM", tmp_path, seed=2)
    arguments = [str(tmp_path), platform, f"hardpoint-{platform}"]
    run = subprocess.run(
        [sys.executable, "-c", _RUN, *arguments],
        env={**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    told = json.loads(run.stdout.splitlines()[-1])
    assert told["tokens"] == [8, 8]
    assert not told["opened"], "the driver was opened in the parent process"
    if platform == "acme":
        reasons = [change["reason"] for change in told["changes"] if change["field"] == "parallel.executor"]
        assert "the N1's driver is opened in worker processes only" in reasons


@pytest.mark.slow
def test_the_whole_suite_passes(vendor: tuple[str, Path], tmp_path: Path) -> None:
    found = conformance(vendor, tmp_path)
    groups = {case["group"] for case in found["cases"] if case["outcome"] == "passed"}
    assert {"contract", "engine", "patches", "scheduler", "startup"} <= groups


def test_vendors_import_no_private_name() -> None:
    for file in VENDORS.glob("*/**/*.py"):
        for line in file.read_text().splitlines():
            if "import" in line and "hardpoint." in line:
                assert "._" not in line, f"{file.name}: {line}"
                assert " _" not in line.split("import", 1)[1], f"{file.name}: {line}"
