"""Floors against figures worked out by hand elsewhere, and measured rows on their way into the tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import floors
import pytest
import run_all
import step
import tables

#: (shape, bytes per weight, bytes per cached number, workload, number) -> the floor that was aimed at.
STATED = {
    ("llama-8b", 2, 2, "latency_b1", "tpot_ms"): 3.57,
    ("llama-8b", 1, 2, "latency_b1", "tpot_ms"): 1.9,
    ("qwen3-30b-a3b", 2, 2, "latency_b1", "tpot_ms"): 1.45,
    ("llama-8b", 2, 2, "latency_b1", "ttft_ms"): 22,
    ("llama-8b", 1, 2, "latency_b1", "ttft_ms"): 12,
    ("llama-8b", 2, 2, "batch_32", "out_tok_s"): 4030,
    ("llama-8b", 2, 2, "batch_128", "out_tok_s"): 6360,
    ("llama-8b", 2, 2, "prefill_64x4096", "total_tok_s"): 45300,
    ("llama-8b", 2, 2, "mixed_512", "out_tok_s"): 13800,
    ("llama-8b", 1, 2, "mixed_512", "out_tok_s"): 20000,
    ("qwen3-0.6b", 2, 2, "mixed_512", "out_tok_s"): 39000,
    ("qwen3-30b-a3b", 2, 2, "mixed_512", "out_tok_s"): 12200,
    ("llama-8b", 2, 2, "shared_prefix_256", "s"): 2.3,
    ("llama-8b", 2, 2, "shared_prefix_256", "s_prefix_once"): 1.3,
    ("llama-8b", 2, 2, "long_32k_b8", "s"): 9.5,
}


@pytest.mark.parametrize("case", STATED, ids=str)
def test_floors_are_within_a_tenth_of_the_stated_ones(case: tuple[str, int, int, str, str]) -> None:
    shape, weight_bytes, kv_element, workload, number = case
    assert floors.row(shape, workload, weight_bytes, kv_element)[number] == pytest.approx(STATED[case], rel=0.1)


def test_a_cost_is_that_of_the_published_model() -> None:
    llama = floors.Cost.of("llama-8b")
    # 8.03 billion parameters, of which 0.525 are the embedding that is looked up.
    assert (llama.dense + llama.head) == pytest.approx(7.5e9, rel=0.01)
    assert llama.kv_bytes == 2 * 8 * 128 * 32 * 2
    experts = floors.Cost.of("qwen3-30b-a3b")
    assert experts.dense + experts.expert * experts.experts + 2 * experts.head == pytest.approx(30.5e9, rel=0.01)
    assert experts.products(1, 1) < experts.products(64, 64) / 5
    assert llama.decode([100] * 4, [3] * 4, shared=80) < llama.decode([100] * 4, [3] * 4)


def record(digest: str) -> dict[str, Any]:
    return {"digest": digest, "versions": {"torch": "2.11"}}


def row(name: str, **numbers: Any) -> str:
    return "ROW " + json.dumps({"group": "llama-8b_bf16", "row": name, **numbers})


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with nothing but vLLM's results."""
    (tmp_path / "vllm.json").write_text((tables.HERE / "vllm.json").read_text())
    monkeypatch.setattr(tables, "HERE", tmp_path)
    return tmp_path


def log(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(["Loading weights", *lines, 'ROW {"group": "llama-8b_bf16", "row": "cut sh']))
    return path


def test_rows_are_kept_and_shown(folder: Path, tmp_path: Path) -> None:
    first = log(
        tmp_path / "a.log",
        row("start", startup_s=5.0, record=record("one")),
        row("latency_b1", median_s=1.1, tpot_ms=4.2, ttft_ms=25.0, spread=0.01),
        row("mixed_512", out_tok_s=12000.0, median_s=24.4, spread=0.02, first_s=40.0),
        row("batch_32", error="not done within 60 s"),
        "ROW not json",
    )
    tables.keep(tables.read_rows([first]), folder)
    shown = tables.table(tables.GROUPS["llama-8b_bf16"], folder)
    assert (
        "| `latency_b1`: time per output token, ms | 4.994 | 4.200 | 1.0% | 1.19 | 3.610 | 86% | 4: missed |" in shown
    )
    assert "| `mixed_512`: output tokens/s | 11,482 | 12,000 | 2.0% | 1.05 | 13,910 | 86% | 13,000: missed |" in shown
    assert "| `batch_32`: output tokens/s | 3,429 | not measured |  |  | 4,308 |  | 3,800 |" in shown
    assert "| start to ready, s | 82.5 | 5.0 |  | 16.50 |  |  | 15: met |" in shown
    assert "`batch_32` failed: not done within 60 s" in shown
    assert "`mixed_512` 40.00 s" in shown
    # A later run replaces what it measured and nothing else; a failure replaces nothing.
    second = log(
        tmp_path / "b.log",
        row("start", startup_s=4.0, record=record("two")),
        row("batch_32", out_tok_s=3900.0, spread=0.01, median_s=2.1),
        row("latency_b1", error="x"),
    )
    tables.keep(tables.read_rows([second]), folder)
    data = json.loads((folder / "llama-8b_bf16.json").read_text())
    assert {name: found["digest"] for name, found in data["rows"].items()} == {
        "start": "two",
        "latency_b1": "one",
        "mixed_512": "one",
        "batch_32": "two",
    }
    assert set(data["records"]) == {"one", "two"}
    shown = tables.table(tables.GROUPS["llama-8b_bf16"], folder)
    assert "| `batch_32`: output tokens/s | 3,429 | 3,900 |" in shown
    assert "`batch_32` failed" not in shown
    assert "`latency_b1` failed: x" in shown


def test_a_server_has_its_own_table(folder: Path, tmp_path: Path) -> None:
    lines = [
        "ROW " + json.dumps({"group": "serve_llama-8b_bf16", "row": "4", "median_ttft_ms": 29.0, "median_tpot_ms": 4.6})
    ]
    tables.keep(tables.read_rows([log(tmp_path / "s.log", *lines)]), folder)
    shown = tables.table(tables.GROUPS["serve_llama-8b_bf16"], folder)
    assert "| 4 requests/s, cold cache: time to first token, ms | 38.2 | 29.0 | 1.32 | 30: met |" in shown
    assert "| 4 requests/s, cold cache: per output token, ms | 5.40 | 4.60 | 1.17 | 4.5: missed |" in shown
    assert "not measured" in shown


def test_only_the_generated_parts_of_the_results_change(folder: Path, tmp_path: Path) -> None:
    results = tmp_path / "RESULTS.md"
    parts = [tables.BEGIN, "stale", tables.END, "between", tables.STEPS_BEGIN, "stale", tables.STEPS_END]
    parts += [tables.KERNELS_BEGIN, "stale", tables.KERNELS_END, "after"]
    results.write_text("\n".join(["before", *parts]))
    step = {
        "shape": "llama-8b",
        "settings": {},
        "measured": "now",
        "batch": 1,
        "context": 1024,
        "wall_us": 4100.0,
        "kernels_us": 4000.0,
    }
    step |= {"floor_us": 3600.0, "parts_us": {"products": 3700.0, "other": 0.2}, "floors_us": {"products": 3573.0}}
    tables.keep_steps([step], folder)
    tables.keep_steps([{**step, "wall_us": 4050.0}], folder)
    tables.render(results, folder)
    text = results.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after")
    assert "between" in text
    assert "stale" not in text
    assert "| llama-8b | 1 | 1,024 | 4,050 | 4,000 | 3,600 | products 3,700 (floor 3,573) | now |" in text
    assert text.count("not measured") > 20
    assert text.count("Not measured.") == 3
    results.write_text("no parts")
    with pytest.raises(ValueError, match="there is no part"):
        tables.render(results, folder)


def test_a_rows_limit_follows_from_what_vllm_took(folder: Path) -> None:
    groups = tables.GROUPS
    assert run_all.expected(groups["llama-8b_fp8"], "mixed_512") == 20.8475
    assert run_all.expected(groups["qwen3-30b-a3b_fp8"], "mixed_512") == 30.6162
    assert run_all.limit(groups["llama-8b_bf16"], "latency_b1", 3) == pytest.approx(30 + 8 * 1.3004)


def test_a_row_that_hangs_is_given_up_and_the_group_goes_on(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The child below hangs at its second row, dies at its third, and does the others."""
    child = tmp_path / "child.py"
    child.write_text(
        "import sys, json, time, os\n"
        "def say(**row): print('ROW ' + json.dumps(row), flush=True)\n"
        "say(row='start', startup_s=1.0)\n"
        "for name in sys.argv[3].split(','):\n"
        "    if name == 'batch_32': time.sleep(60)\n"
        "    if name == 'batch_128': print('out of memory'); os._exit(3)\n"
        "    say(row=name, median_s=1.0)\n"
    )
    monkeypatch.setattr(run_all, "__file__", str(child))
    monkeypatch.setattr(run_all, "limit", lambda group, row, repetitions: 0.5)
    kept = tmp_path / "rows.log"
    rows = "latency_b1,batch_32,batch_128,mixed_512"
    arguments = ["run", "--groups", "llama-8b_bf16", "--rows", rows, "--keep", str(kept), "--budget", "500"]
    assert run_all.main(arguments) == 1
    found = [json.loads(line.removeprefix("ROW ")) for line in capsys.readouterr().out.splitlines()]
    told = [(each["row"], each.get("error")) for each in found if each["row"] != "start"]
    assert told == [
        ("latency_b1", None),
        ("batch_32", "not done within 0 s"),
        ("batch_128", "out of memory"),
        ("mixed_512", None),
    ]
    # What is kept is not run again.
    run_all.main(arguments)
    again = [json.loads(line.removeprefix("ROW "))["row"] for line in capsys.readouterr().out.splitlines()]
    assert [name for name in again if name != "start"] == ["batch_32", "batch_128"]
    # Nothing is begun that cannot end in time.
    run_all.main(["run", "--groups", "llama-8b_bf16", "--rows", "latency_b1", "--budget", "5"])
    assert capsys.readouterr().out == ""


def test_kernels_are_counted_to_their_part_of_a_step() -> None:
    parts = {
        "one_row": "products",
        "few_rows": "products",
        "nvjet_sm90_tst_128x64_64x8_1x2_h_bx_splitK_TNT": "products",
        "void cublasLt::splitKreduce_kernel<32, 16>": "products",
        "decode": "attention",
        "attend_dense": "attention",
        "cudnn_generated_fort_native_sdpa_sm90_flash_fprop": "attention",
        "norm_rope": "norm, rotation, cache write",
        "_gated": "norm, rotation, cache write",
        "_maxima": "sampling and inputs",
        "void at::native::indexSelectSmallIndex<long>": "sampling and inputs",
        "_route": "experts",
        "something new": "other",
    }
    assert {name: step.part_of(name) for name in parts} == parts


def test_kernels_are_shown_beside_their_ceilings(tmp_path: Path) -> None:
    linear = {"model": "llama-8b", "layer": "qkv", "rows": 1, "ours": 14.3, "cublas": 15.8, "floor": 11.3}
    at = {"model": "llama-8b", "kv_dtype": "bfloat16", "part": "decode", "requests": 8, "context": 1024, "new": 1}
    attention = [
        {**at, "backend": "triton", "time": 12.0, "floor": 10.0},
        {**at, "backend": "cudnn", "time": None, "floor": 10.0, "error": "no"},
        {**at, "model": "qwen3-0.6b", "backend": "triton", "time": 77.0, "floor": 10.0},
    ]
    moe = {"model": "qwen3-30b-a3b", "rows": 1, "ours": 30.0, "floor": 25.0}
    rates = {"read_bytes_per_second": 4.45e12, "operations_per_second": 7e14}
    for name, results in (("linear", [linear, {**linear, "rows": 16}]), ("attention", attention), ("moe", [moe])):
        (tmp_path / f"{name}.json").write_text(json.dumps({**rates, "results": results}))
    shown = tables.kernels_section(tmp_path)
    assert "4.45 TB/s, 700 TFLOP/s" in shown
    assert "| llama-8b | qkv | 14.3 / 15.8 / 11.3 | 14.3 / 15.8 / 11.3 |" in shown
    assert "| decode | 8 | 1,024 | 1 | 12.0 (1.20) | - | 10.0 |" in shown
    assert "| qwen3-30b-a3b | 30.0 / 25.0 |" in shown
    assert "77.0" not in shown
