"""Workloads by name: the ids are the published ones, and the commands run them, record them, draw and compare them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

from hardpoint.bench import shapes
from hardpoint.bench.workloads import WORKLOADS, mixed, named
from hardpoint.cli import cli
from hardpoint.cli.bench_compare import changes, differences
from hardpoint.cli.measure import spread
from hardpoint.contract.errors import ConfigError

#: First half of the SHA-256 of the requests that other engines were measured with, [prompt, output length] as JSON each.
PUBLISHED = {
    "latency_b1": (1, "e8da401539ae4d49"),
    "batch_32": (32, "952e3dab19a61a4c"),
    "batch_128": (128, "84c573f62dea476d"),
    "prefill_64x4096": (64, "8e36ac0a1ee37632"),
    "mixed_512": (512, "92fb5b8942274751"),
    "shared_prefix_256": (256, "4fbfd8d6c556d599"),
    "long_32k_b8": (8, "0ff7b35d5daa290a"),
}
ENGINE = ("--threads", "1", "--num-gpu-blocks-override", "200")
SMALL = ("--scale", "0.03", "--requests", "4", "--repetitions", "2", *ENGINE)


def digest(loads: Any) -> str:
    found = hashlib.sha256()
    for load in loads:
        found.update(json.dumps([load.prompt, load.output_len]).encode())
    return found.hexdigest()[:16]


def invoke(*arguments: str, code: int = 0) -> Any:
    result = CliRunner().invoke(cli, ["bench", *arguments], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result


@pytest.mark.parametrize("name", WORKLOADS)
@pytest.mark.parametrize("vocab_size", [128256, 151936])
def test_requests_are_those_that_other_engines_ran(name: str, vocab_size: int) -> None:
    loads = WORKLOADS[name].generate(vocab_size, 0)
    assert (len(loads), digest(loads)) == PUBLISHED[name]
    assert digest(WORKLOADS[name].generate(vocab_size, 1)) != PUBLISHED[name][1]


def test_lengths_and_ids_stay_in_bounds() -> None:
    assert digest(mixed(20, 1280, seed=3, least=5, most=9)) == "1ad863520aaa7895"
    for vocab_size in (50, 288, 1280):
        loads = mixed(40, vocab_size, least=5, most=9)
        assert {len(load.prompt) for load in loads} == {load.output_len for load in loads} == {5, 6, 7, 8, 9}
        ids = {token for load in loads for token in load.prompt}
        assert min(ids) >= min(1000, vocab_size // 10)
        assert max(ids) < vocab_size


def test_a_name_that_is_no_workload_is_told_with_those_that_are() -> None:
    assert [each.name for each in named(())] == list(PUBLISHED)
    with pytest.raises(ConfigError, match=r"no workload 'mixed'; there are .*mixed_512"):
        named(["mixed"])


def test_shapes_are_models_by_name() -> None:
    assert shapes.names() == ("llama-8b", "qwen3-0.6b", "qwen3-30b-a3b")
    for name in shapes.names():
        config = json.loads((shapes.folder(name) / "config.json").read_text())
        assert config["architectures"]
    with pytest.raises(ConfigError, match="it must be one of llama-8b"):
        shapes.folder("llama-9b")


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the record of two small workloads on the bundled model."""
    path = tmp_path_factory.mktemp("bench") / "before.json"
    invoke("workload", "latency_b1", "shared_prefix_256", "--output-json", str(path), *SMALL)
    return path


def test_the_record_says_everything(measured: Path) -> None:
    found = json.loads(measured.read_text())
    assert found["kind"] == "workload"
    assert {"hardpoint", "python", "torch", "transformers"} <= set(found["versions"])
    assert found["config"]["platform"]["threads"] == 1
    assert found["chosen"]["platform"] == "cpu"
    assert found["chosen"]["attention"]
    assert found["chosen"]["ops"]
    assert len(found["digest"]) == 64
    assert (found["seed"], found["scale"]) == (0, 0.03)
    assert found["startup_s"] > 0
    row = found["workloads"]["latency_b1"]
    assert (row["requests"], row["in"], row["out"]) == (1, 31, 8)
    assert len(row["all_s"]) == 2
    assert len(row["all_first_s"]) == 3
    assert row["best_s"] <= row["median_s"]
    # The per-token time is what is left of a run behind its first token.
    assert row["tpot_ms"] * 7 + row["ttft_ms"] == pytest.approx(row["median_s"] * 1e3)
    shared = found["workloads"]["shared_prefix_256"]
    assert (shared["requests"], shared["in"], shared["out"]) == (4, 4 * 65, 4 * 2)
    assert shared["out_tok_s"] == pytest.approx(8 / shared["median_s"])


def test_equal_engines_have_equal_digests_and_others_do_not(measured: Path, tmp_path: Path) -> None:
    digests = []
    for extra in ((), ("--max-num-seqs", "3")):
        path = tmp_path / "again.json"
        invoke("workload", "latency_b1", "--no-warmup", "--output-json", str(path), *SMALL, *extra)
        digests.append(json.loads(path.read_text())["digest"])
    assert digests[0] == json.loads(measured.read_text())["digest"]
    assert digests[1] != digests[0]


def test_the_table_and_what_does_not_fit() -> None:
    result = invoke("workload", "batch_32", *SMALL)
    assert "batch_32" in result.stdout
    assert "OUTPUT TOK/S" in result.stdout
    refused = invoke("workload", "long_32k_b8", *ENGINE, code=2)
    assert "shrink them with --scale 0.068" in refused.output
    assert "leave one out" in invoke("workload", "--shape", "llama-8b", "--model", "x", code=2).output
    assert "it must be one of llama-8b" in invoke("workload", "--shape", "x", code=2).output
    assert "above 0" in invoke("workload", "--scale", "0", code=2).output


def test_a_trace_of_the_last_workload(tmp_path: Path) -> None:
    trace = tmp_path / "trace.json"
    invoke("workload", "latency_b1", "--no-warmup", "--profile", str(trace), *SMALL)
    names = {event.get("name") for event in json.loads(trace.read_text())["traceEvents"]}
    assert {"schedule", "submit", "wait", "update", "forward"} <= names


def test_a_sweep_and_its_plot(tmp_path: Path) -> None:
    path, plot = tmp_path / "sweep.json", tmp_path / "sweep.svg"
    sizes = ("--concurrency", "4,1", "--input-len", "20", "--output-len", "4", "--repetitions", "2")
    invoke("sweep", *sizes, "--output-json", str(path), "--label", "demo", *ENGINE)
    found = json.loads(path.read_text())
    assert [point["concurrency"] for point in found["points"]] == [1, 4]
    assert [point["out"] for point in found["points"]] == [4, 16]
    invoke("sweep", *sizes, "--plot", str(plot), "--beside", str(path), "--label", "second", *ENGINE)
    texts = [element.text for element in ElementTree.parse(plot).iter() if element.tag.endswith("text")]
    assert {"demo", "second", "requests at once"} <= set(texts)
    refused = invoke("sweep", *sizes, "--plot", str(tmp_path / "plot.xyz"), *ENGINE, code=2)
    assert "end its name in .svg" in refused.output
    assert "whole numbers" in invoke("sweep", "--concurrency", "1,x", *ENGINE, code=2).output


def test_compare_tells_better_from_worse_and_from_noise(measured: Path, tmp_path: Path) -> None:
    before = json.loads(measured.read_text())
    after = json.loads(measured.read_text())
    row = after["workloads"]["latency_b1"]
    before["workloads"]["latency_b1"]["spread"] = row["spread"] = 0.05
    row["median_s"] *= 1.2
    row["ttft_ms"] *= 0.8
    row["tpot_ms"] *= 1.01
    after["config"]["scheduler"]["max_num_seqs"] = 7
    found = {change["number"]: change for change in changes(before, after) if change["row"] == "latency_b1"}
    assert {name: found[name]["verdict"] for name in ("s", "TTFT ms", "ms per token")} == {
        "s": "worse",
        "TTFT ms": "better",
        "ms per token": "noise",
    }
    assert found["s"]["change"] == pytest.approx(0.2)
    assert list(differences(before, after)) == [("config.scheduler.max_num_seqs", 256, 7)]
    path = tmp_path / "after.json"
    path.write_text(json.dumps(after))
    told = invoke("compare", str(measured), str(path)).stdout
    assert "config.scheduler.max_num_seqs" in told
    assert "+20.0%" in told
    plain = json.loads(invoke("compare", "--json", str(measured), str(path)).stdout)
    assert plain["differences"] == [["config.scheduler.max_num_seqs", 256, 7]]
    (tmp_path / "no.json").write_text("[]")
    assert "holds list" in invoke("compare", str(measured), str(tmp_path / "no.json"), code=2).output
    (tmp_path / "empty.json").write_text("{}")
    assert "no measured row" in invoke("compare", str(measured), str(tmp_path / "empty.json"), code=2).output


def test_spread_is_a_share_of_the_median() -> None:
    assert spread([1.0, 1.2, 0.9]) == pytest.approx(0.3)
    assert spread([2.0]) == 0.0
