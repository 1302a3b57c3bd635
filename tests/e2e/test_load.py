"""``hardpoint bench serve`` against a real server: what it counts is what the server did."""

from __future__ import annotations

import json
from typing import Any

from click.testing import CliRunner
from server_process import KEY, ServerProcess

from hardpoint.cli import cli


def load(server: ServerProcess, *more: str) -> dict[str, Any]:
    arguments = ["bench", "serve", "--base-url", server.url, "--api-key", KEY, "--json", "--num-prompts", "6"]
    sizes = ["--input-len", "40", "--output-len", "5"]
    result = CliRunner().invoke(cli, [*arguments, *sizes, *more], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_a_load_is_counted_as_the_server_counts_it(server: ServerProcess) -> None:
    before = server.metric("generation_tokens_total")
    found = load(server, "--seed", "11", "--goodput", "ttft:60000", "--goodput", "tpot:60000")
    assert (found["completed"], found["failed"]) == (6, 0)
    assert (found["total_input_tokens"], found["total_output_tokens"]) == (240, 30)
    assert server.metric("generation_tokens_total") - before == 30
    assert found["request_goodput"] == found["request_throughput"] > 0
    assert 0 < found["median_ttft_ms"] < found["median_e2el_ms"]
    # No request is as fast as this.
    assert load(server, "--seed", "12", "--goodput", "e2el:0.001")["request_goodput"] == 0


def test_warm_prompts_are_in_the_prefix_cache(server: ServerProcess) -> None:
    hits = [server.metric("prefix_cache_hits_total")]
    for more in ((), ("--warm-prompts",)):
        # A seed for each: prompts of the first run are warm in the second.
        load(server, "--seed", str(20 + len(more)), *more)
        hits.append(server.metric("prefix_cache_hits_total"))
    assert hits[1] == hits[0]
    assert hits[2] - hits[1] >= 6 * 32


def test_a_rate_is_kept(server: ServerProcess) -> None:
    found = load(server, "--seed", "31", "--request-rate", "6", "--burstiness", "5")
    assert found["duration"] >= 1.0
    assert found["request_rate"] == 6.0
