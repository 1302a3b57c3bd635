"""The commands that a newcomer types."""

from __future__ import annotations

import json
import subprocess

import pytest
from server_process import CONTEXT, KEY, SCRIPT


def run(*arguments: str) -> str:
    done = subprocess.run([str(SCRIPT), *arguments], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_one_answer_of_the_bundled_model():
    answer = run("chat", "What is the capital of France?", "--temperature", "0", "--threads", "1")
    assert "Paris" in answer
    assert answer.count("\n") == 1


@pytest.mark.slow
def test_here_and_behind_a_url_say_the_same(server, tiny_model):
    here = ["--model", str(tiny_model), "--threads", "1", "--num-gpu-blocks-override", "300"]
    there = ["--url", server.url, "--api-key", KEY]
    asked = ["Hello", "--temperature", "0", "--max-tokens", "12"]
    for command in ("chat", "complete"):
        said = run(command, *asked, *there)
        assert said.strip()
        assert run(command, *asked, *here) == said


@pytest.mark.slow
def test_measurements_of_a_server(server, tmp_path):
    flags = ["--base-url", server.url, "--api-key", KEY, "--num-prompts", "6", "--input-len", "20", "--output-len", "5"]
    file = ["--save-result", "--result-dir", str(tmp_path), "--result-filename", "r.json"]
    shown = run("bench", "serve", *flags, *file, "--disable-tqdm")
    assert "Successful requests:                     6" in shown
    saved = json.loads((tmp_path / "r.json").read_text())
    assert (saved["completed"], saved["total_input_tokens"], saved["total_output_tokens"]) == (6, 120, 30)
    assert 0 < saved["median_ttft_ms"] <= saved["median_e2el_ms"]


@pytest.mark.slow
def test_measurements_of_a_model(tiny_model):
    engine = [
        str(tiny_model),
        "--threads",
        "1",
        "--num-gpu-blocks-override",
        "300",
        "--max-model-len",
        str(CONTEXT),
        "--json",
    ]
    sizes = ["--input-len", "20", "--output-len", "5"]
    latency = json.loads(run("bench", "latency", *engine, *sizes, "--batch-size", "2", "--num-iters", "3"))
    assert len(latency["latencies"]) == 3
    assert 0 < latency["median_ttft_ms"] < latency["avg_latency"] * 1e3
    throughput = json.loads(run("bench", "throughput", *engine, *sizes, "--num-prompts", "7", "--n", "2"))
    assert (throughput["prompt_tokens"], throughput["output_tokens"]) == (140, 70)
