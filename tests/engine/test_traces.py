"""A trace shows the host's segments around what runs, whether the engine is in this process or in one of its own."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from hardpoint import LLM, SamplingParams
from hardpoint.contract.errors import ProfileError

PARAMS = SamplingParams(temperature=0.0, max_tokens=5, ignore_eos=True, detokenize=False)


@pytest.mark.parametrize("in_process", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_segments_and_operators_share_a_clock(tiny_llama: Path, tmp_path: Path, in_process: bool) -> None:
    file = tmp_path / "trace.json"
    with LLM(
        str(tiny_llama),
        dtype="float32",
        skip_tokenizer_init=True,
        max_model_len=64,
        threads=1,
        platform="cpu",
        in_process=in_process,
    ) as llm:
        with pytest.raises(ProfileError, match="no profile was started"):
            llm.stop_profile(file)
        for _ in range(2):
            llm.generate([[5, 6, 7]], PARAMS, use_tqdm=False)
            llm.start_profile()
            with pytest.raises(ProfileError, match="being recorded"):
                llm.start_profile()
            llm.generate([[5, 6, 7]], PARAMS, use_tqdm=False)
            llm.stop_profile(file)
            events = json.loads(file.read_text())["traceEvents"]
            spans = [event for event in events if event.get("cat") == "host"]
            counts = Counter(span["name"] for span in spans)
            # One prefill, which samples the first token, and four decodes.
            assert {
                name: counts[name] for name in ("submit", "wait", "update", "prepare", "forward", "sample")
            } == dict.fromkeys(("submit", "wait", "update", "prepare", "forward", "sample"), 5)
            assert counts["schedule"] >= 5
            operators = [event for event in events if event.get("cat") == "cpu_op"]
            assert operators
            for name in ("submit", "forward"):
                around = [(span["ts"], span["ts"] + span["dur"]) for span in spans if span["name"] == name]
                inside = sum(any(begin <= event["ts"] <= end for begin, end in around) for event in operators)
                assert inside > len(operators) / 2, f"{inside} of {len(operators)} operators ran within {name}"
        llm.start_profile()
        with pytest.raises(ProfileError):
            llm.stop_profile(tmp_path / "no" / "such" / "folder.json")
        assert llm.generate([[5, 6, 7]], PARAMS, use_tqdm=False)[0].outputs[0].finish_reason == "length"
