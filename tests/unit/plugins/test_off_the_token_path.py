"""Discovery and announcements cost nothing per token: no frame of pluggy or stevedore is under a step."""

from __future__ import annotations

import sys
from types import FrameType

import pytest

from hardpoint import LLM, SamplingParams
from hardpoint.testing.tiny_models import make_tiny

FORBIDDEN = ("pluggy", "stevedore", "importlib.metadata", "hardpoint.plugins.")


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("tiny")
    make_tiny("LlamaForCausalLM", folder, seed=1)
    with LLM(
        str(folder), platform="cpu", dtype="float32", skip_tokenizer_init=True, max_model_len=64, kv_cache_memory="8M"
    ) as made:
        yield made


def test_no_plugin_machinery_runs_while_tokens_are_made(llm: LLM) -> None:
    params = SamplingParams(temperature=0.8, max_tokens=8, ignore_eos=True, detokenize=False)
    prompts = [{"prompt_token_ids": [3, 1, 4]}, {"prompt_token_ids": [1, 5, 9, 2, 6]}]
    llm.generate(prompts, params, use_tqdm=False)
    modules: set[str] = set()

    def note(frame: FrameType, event: str, argument: object) -> None:
        modules.add(str(frame.f_globals.get("__name__", "")))

    sys.setprofile(note)
    try:
        llm.generate(prompts, params, use_tqdm=False)
    finally:
        sys.setprofile(None)
    assert "hardpoint.engine.loop" in modules, "the engine did not run in this thread: nothing was looked at"
    assert [name for name in sorted(modules) if (name + ".").startswith(FORBIDDEN)] == []
