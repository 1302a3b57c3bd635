"""Decode steps that are prepared while nobody waits, and what happens where one cannot be prepared."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from test_prepared_decodes import PROMPTS, opened, sampling, vendor

from hardpoint import LLM, SamplingParams
from hardpoint.cli import cli
from hardpoint.contract.errors import EngineDeadError
from throwaway import Site, site

__all__ = ["site", "vendor"]

#: Four rows: more than the smaller shape holds, less than the larger one.
PARAMS = [sampling(2) for _ in PROMPTS[:4]]


def tokens(llm: LLM, params: list[SamplingParams] = PARAMS) -> list[list[int]]:
    done = llm.generate([{"prompt_token_ids": p} for p in PROMPTS[: len(params)]], params, use_tqdm=False)
    return [list(output.outputs[0].token_ids) for output in done]


def prepared(llm: LLM) -> dict[str, list[int]]:
    """Return prepared sizes by way of sampling, as they are now."""
    runner: Any = llm._engine()._loop._executor._runner  # type: ignore[attr-defined]
    return {kind["sampling"]: kind["sizes"] for kind in runner.describe()["prepared"]["kinds"]}


def test_what_no_step_has_wanted_yet_is_prepared_in_idle_time(tiny_llama: Path, vendor: Site) -> None:
    with opened(tiny_llama, eager=True) as llm:
        expected = tokens(llm)
    with opened(tiny_llama, eager=False) as llm:
        assert prepared(llm) == {"greedy": [2]}
        assert llm._engine().poll(0.001) is None
        assert prepared(llm) == {"greedy": [2, 5], "full": [2, 5], "top-k": [2, 5]}
        assert tokens(llm) == expected
        # A way to sample that came up makes all its sizes worth preparing.
        tokens(llm, [sampling(4, presence_penalty=0.5)])
        assert prepared(llm)["afterwards"] == [2]
        assert llm._engine().poll(0.001) is None
        assert prepared(llm)["afterwards"] == [2, 5]
        assert tokens(llm) == expected


def test_a_device_that_runs_by_itself_rehearses(
    tiny_llama: Path, vendor: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(tiny_llama, eager=True) as llm:
        expected = tokens(llm)
    import replay_vendor

    plain = replay_vendor.ReplayingPlatform.capabilities
    monkeypatch.setattr(
        replay_vendor.ReplayingPlatform,
        "capabilities",
        lambda self, info: dataclasses.replace(plain(self, info), asynchronous=True),
    )
    with opened(tiny_llama, eager=False) as llm:
        assert prepared(llm) == {"greedy": [2, 5]}, "five long prompts were decoded"
        assert tokens(llm) == expected
    with opened(tiny_llama, eager=True) as llm:
        assert llm.info.description["prepared"] is None
        assert tokens(llm) == expected


def test_explain_tells_what_will_be_prepared(tiny_llama: Path, vendor: Site) -> None:
    settings = [
        "--platform",
        "replaying",
        "--allow-plugins",
        "vendor-replay",
        "--skip-tokenizer-init",
        "--dtype",
        "float32",
    ]
    for eager, shown in (([], True), (["--enforce-eager"], False)):
        done = CliRunner().invoke(cli, ["explain", str(tiny_llama), *settings, *eager], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        assert ("Prepared decode steps" in done.output) is shown
        if shown:
            lines = done.output.split("Prepared decode steps")[1].splitlines()
            assert ["greedy", "2", "at", "start"] in [line.split() for line in lines]
            assert any(line.split()[:2] == ["any", "5"] for line in lines)


@pytest.mark.parametrize("error", [MemoryError("as asked"), RuntimeError("no such kernel, as asked")], ids=repr)
def test_steps_run_unprepared_where_they_cannot_be_prepared(
    tiny_llama: Path, vendor: Site, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    with opened(tiny_llama, eager=True) as llm:
        expected = tokens(llm)
    import replay_vendor

    original, attempts = replay_vendor.Preparer.prepare, []

    def prepare(self: Any, step: Any, shape: Any) -> Any:
        if shape.requests == 5:
            attempts.append(shape)
            raise error
        return original(self, step, shape)

    monkeypatch.setattr(replay_vendor.Preparer, "prepare", prepare)
    with opened(tiny_llama, eager=False) as llm:
        assert tokens(llm) == expected
        assert len(attempts) == 1, "it is not tried again"
        assert llm._engine().poll(0.001) is None
        assert len(attempts) == 3, "each way to sample is tried once"
        assert tokens(llm) == expected
        assert len(attempts) == 3
        assert prepared(llm) == {"greedy": [2], "full": [2], "top-k": [2]}


def test_a_device_that_breaks_while_a_step_is_prepared_ends_the_engine(
    tiny_llama: Path, vendor: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(tiny_llama, eager=False) as llm:
        import replay_vendor

        def prepare(self: Any, step: Any, shape: Any) -> Any:
            raise RuntimeError("illegal access, as asked")

        monkeypatch.setattr(replay_vendor.Preparer, "prepare", prepare)
        monkeypatch.setattr(replay_vendor.ReplayingDevice, "health", lambda self: "illegal access")
        with pytest.raises(EngineDeadError, match="preparing failed with RuntimeError: illegal access"):
            llm._engine().poll(0.001)
        with pytest.raises(EngineDeadError, match="preparing failed"):
            tokens(llm)
