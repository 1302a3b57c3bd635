"""What a plugin hears from a real engine, from its start to its end."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hardpoint.config import EngineConfig
from hardpoint.contract.errors import EngineDeadError, PluginError
from hardpoint.engine.core import make_client
from hardpoint.engine.messages import EngineRequest
from hardpoint.params import SamplingParams
from hardpoint.testing.tiny_models import make_tiny
from throwaway import Site, descriptor

LISTENER = """
from hardpoint.contract.events import hookimpl
heard = []
class Listener:
    @hookimpl
    def plugins_selected(self, selection): heard.append(("plugins_selected", any(s.name == "fcfs" for s in selection)))
    @hookimpl
    def config_ready(self, config): heard.append(("config_ready", config.platform.platform))
    @hookimpl
    def engine_starting(self, config): heard.append(("engine_starting", config.model.dtype))
    @hookimpl
    def model_loaded(self, model, seconds): heard.append(("model_loaded", seconds > 0))
    @hookimpl
    def engine_started(self, info): heard.append(("engine_started", info.vocab_size))
    @hookimpl
    def request_added(self, request_id, num_prompt): heard.append(("request_added", request_id, num_prompt))
    @hookimpl
    def request_finished(self, request_id, reason, num_prompt, num_generated):
        heard.append(("request_finished", request_id, reason, num_prompt, num_generated))
    @hookimpl
    def engine_failed(self, cause): heard.append(("engine_failed", cause))
    @hookimpl
    def engine_stopping(self): heard.append(("engine_stopping",))
"""
STRICT = """
from hardpoint.contract.events import hookimpl
class Listener:
    @hookimpl
    def request_finished(self): raise OSError("the ledger is full")
"""


def install(site: Site, name: str, code: str, **more: Any) -> None:
    described = descriptor("events", name, f"engine_{name}_code:Listener", **more)
    site.add(
        f"vendor-{name}",
        {f"engine_{name}": described, f"engine_{name}_code": code},
        {"events": {name: f"engine_{name}:D"}},
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny("LlamaForCausalLM", tmp_path_factory.mktemp("tiny"))


def config(model: Path, *allow: str) -> EngineConfig:
    return EngineConfig.of(model=str(model), num_blocks=32, max_num_seqs=4, allow_plugins=allow, threads=1)


def request(name: str, handles: tuple[int, ...], max_tokens: int) -> EngineRequest:
    return EngineRequest(
        request_id=name,
        handles=handles,
        token_ids=np.arange(5, 12, dtype=np.int32),
        params=SamplingParams(n=len(handles), temperature=0.0, max_tokens=max_tokens, ignore_eos=True),
    )


def test_an_engine_tells_its_life_in_order(site: Site, model: Path) -> None:
    install(site, "audit", LISTENER)
    client = make_client(config(model, "vendor-audit"), in_process=True)
    client.add(request("a", (1, 2), 3))
    client.add(request("b", (3,), 50))
    ended: set[int] = set()
    for _ in range(60):
        outputs = client.poll(0.0)
        ended |= {finish.handle for finish in outputs.finished} if outputs else set()
        if ended == {1, 2}:
            client.abort([3])
        if ended == {1, 2, 3}:
            break
    client.close()
    heard = importlib.import_module("engine_audit_code").heard
    assert heard[:5] == [
        ("plugins_selected", True),
        ("config_ready", "cpu"),
        ("engine_starting", "float32"),
        ("model_loaded", True),
        ("engine_started", 288),
    ]
    assert heard[5:7] == [("request_added", "a", 7), ("request_added", "b", 7)]
    assert heard[7:9] == [("request_finished", "a", "length", 7, 3)] * 2
    ((_, name, reason, num_prompt, num_generated), last) = heard[9:]
    assert (name, reason, num_prompt) == ("b", "abort", 7)
    assert 3 <= num_generated < 50
    assert last == ("engine_stopping",)


def test_a_critical_listener_that_fails_ends_the_engine_with_its_cause(site: Site, model: Path) -> None:
    install(site, "ledger", STRICT, data={"critical": True})
    client = make_client(config(model, "vendor-ledger"), in_process=True)
    client.add(request("a", (1,), 2))
    with pytest.raises(
        EngineDeadError, match="critical plugin 'ledger' failed in request_finished: OSError: the ledger"
    ):
        [client.poll(0.0) for _ in range(10)]
    client.close()


def test_a_listener_that_fails_harms_no_request(site: Site, model: Path, caplog: pytest.LogCaptureFixture) -> None:
    install(site, "sloppy", STRICT)
    client = make_client(config(model, "vendor-sloppy"), in_process=True)
    client.add(request("a", (1,), 2))
    finished = []
    while not finished:
        outputs = client.poll(0.0)
        finished = outputs.finished if outputs else []
    client.close()
    assert finished[0].reason == "length"
    assert "plugin 'sloppy' failed in request_finished" in caplog.text


def test_a_critical_listener_that_cannot_be_loaded_ends_the_start(site: Site, model: Path) -> None:
    install(site, "gone", "raise ImportError('libledger.so')", data={"critical": True})
    with pytest.raises(PluginError, match=r"vendor-gone 1\.0.*libledger\.so"):
        make_client(config(model, "vendor-gone"), in_process=True)
