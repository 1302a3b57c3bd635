"""Coming up, failing and going away: workers in processes of their own, killed and started again; names told in time."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from hardpoint.contract.device import Capabilities
from hardpoint.contract.errors import HardpointError
from hardpoint.contract.platform import Platform
from hardpoint.llm import LLM
from hardpoint.params import SamplingParams
from hardpoint.testing.tiny_models import make_tiny


@pytest.fixture(scope="module")
def settings(platform: Platform, caps: Capabilities, allowed: tuple[str, ...]) -> dict[str, Any]:
    """What every engine of this module is made with."""
    return {
        "platform": platform.name,
        "dtype": caps.preferred_dtype,
        "allow_plugins": allowed,
        "kv_cache_memory": "32M",
        "skip_tokenizer_init": True,
        "max_model_len": 128,
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint."""
    made = tmp_path_factory.mktemp("tiny")
    make_tiny("LlamaForCausalLM", made, seed=1)
    return made


def _tokens(llm: LLM) -> list[int]:
    params = SamplingParams(temperature=0.0, max_tokens=6, ignore_eos=True, detokenize=False)
    done = llm.generate([{"prompt_token_ids": [3, 1, 4, 1, 5]}], params, use_tqdm=False)
    return list(done[0].outputs[0].token_ids)


def test_a_worker_process_gives_the_same_tokens(folder: Path, settings: dict[str, Any]) -> None:
    with LLM(str(folder), **settings, distributed_executor_backend="in_process") as llm:
        expected = _tokens(llm)
    with LLM(str(folder), **settings, distributed_executor_backend="multi_process") as llm:
        assert _tokens(llm) == expected


def test_a_killed_worker_is_an_error_that_says_so_and_another_engine_comes_up(
    folder: Path, settings: dict[str, Any]
) -> None:
    before = set(_children())
    llm = LLM(str(folder), **settings, distributed_executor_backend="multi_process")
    try:
        _tokens(llm)
        for child in set(_children()) - before:
            os.kill(child, signal.SIGKILL)
        with pytest.raises(HardpointError):
            _tokens(llm)
    finally:
        llm.close()
    with LLM(str(folder), **settings, distributed_executor_backend="multi_process") as again:
        assert len(_tokens(again)) == 6


def test_an_unknown_device_is_refused_by_name(folder: Path, settings: dict[str, Any], platform: Platform) -> None:
    too_many = len(platform.devices()) + 1
    with pytest.raises(HardpointError, match=str(too_many)):
        LLM(str(folder), **settings, tensor_parallel_size=too_many)


def _children() -> list[int]:
    tasks = Path("/proc/self/task").glob("*/children")
    direct = [int(pid) for task in tasks for pid in task.read_text().split()]
    deep = [
        int(pid)
        for child in direct
        for task in Path(f"/proc/{child}/task").glob("*/children")
        for pid in task.read_text().split()
    ]
    return direct + deep
