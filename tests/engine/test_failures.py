"""What cannot run says why and what to do, and a dead engine says so to whoever waits."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from hardpoint import LLM, SamplingParams
from hardpoint.config import EngineConfig
from hardpoint.contract.errors import ConfigError, EngineDeadError, HardpointError, MemoryBudgetError, PluginError
from hardpoint.engine.core import make_client
from hardpoint.engine.process import ProcessClient

BASE: dict[str, Any] = {"dtype": "float32", "skip_tokenizer_init": True, "max_model_len": 128, "threads": 1}


@pytest.mark.parametrize(
    ("changes", "kind", "says"),
    [
        ({"max_model_len": 10**9}, ConfigError, r"longer than the model's context.*--hf-overrides"),
        ({"kv_cache_memory": "4000G"}, MemoryBudgetError, r"asks for .* GiB.*are free"),
        ({"kv_cache_memory": 1000}, MemoryBudgetError, r"one sequence of --max-model-len 128 tokens takes"),
        ({"num_blocks": 3}, MemoryBudgetError, r"raise --kv-cache-memory"),
        ({"platform": "abacus"}, PluginError, r"abacus.*cpu"),
        ({"attention_backend": "guesswork"}, PluginError, r"guesswork.*cpu"),
        ({"scheduling_policy": "whim"}, PluginError, r"whim.*fcfs"),
        ({"distributed_executor_backend": "telepathy"}, PluginError, r"telepathy.*in_process"),
        ({"distributed_executor_backend": "in_process", "tensor_parallel_size": 2}, ConfigError, r"one rank"),
        ({"tensor_parallel_size": 4096}, ConfigError, r"needs 4096 devices"),
        ({"device_ids": "99999"}, ConfigError, r"99999"),
        ({"kv_cache_dtype": "int3"}, ConfigError, r"int3.*offers"),
        ({"kv_cache_dtype": "fp8"}, ConfigError, r"fp8.*offers"),
        ({"max_num_sequences": 3}, ConfigError, r"did you mean"),
        ({"dtype": "complex64"}, ConfigError, r"must be one of"),
        ({"quantization": "crystal"}, HardpointError, r"crystal"),
    ],
    ids=lambda value: str(next(iter(value))) if isinstance(value, dict) else None,
)
@pytest.mark.parametrize("in_process", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_setting_that_cannot_be_served_says_why(
    tiny_llama: Path, changes: dict[str, Any], kind: type[Exception], says: str, in_process: bool
) -> None:
    """The same class and text, whether the engine runs here or in a process of its own."""
    with pytest.raises(kind, match=says):
        LLM(str(tiny_llama), in_process=in_process, **{**BASE, **changes})


def test_a_killed_engine_is_reported_in_seconds_and_can_be_started_again(tiny_llama: Path) -> None:
    """Whoever polls gets the cause; so does whoever adds afterwards."""
    config = EngineConfig.of(model=str(tiny_llama), **BASE)
    client = make_client(config, in_process=False)
    assert isinstance(client, ProcessClient)
    seen: list[BaseException] = []

    def wait() -> None:
        try:
            client.poll(60)
        except EngineDeadError as error:
            seen.append(error)

    waiter = threading.Thread(target=wait)
    waiter.start()
    os.kill(client.pid, signal.SIGKILL)
    began = time.monotonic()
    waiter.join(10)
    assert not waiter.is_alive(), f"nobody was told for {time.monotonic() - began:.0f} s"
    assert "SIGKILL" in str(seen[0])
    with pytest.raises(EngineDeadError, match="SIGKILL"):
        client.abort([1])
    client.close()
    again = make_client(config, in_process=False)
    assert again.info.max_model_len == 128
    again.close()


def test_a_killed_worker_is_reported(tiny_llama: Path) -> None:
    """A rank that dies ends the engine with the rank's name."""
    import psutil

    with LLM(str(tiny_llama), tensor_parallel_size=2, **BASE) as llm:
        for child in psutil.Process().children():
            if "worker_main" in " ".join(child.cmdline()):
                child.kill()
        with pytest.raises(EngineDeadError, match=r"worker of rank \d.*SIGKILL"):
            llm.generate([{"prompt_token_ids": [5, 6]}], SamplingParams(max_tokens=4, detokenize=False), use_tqdm=False)
