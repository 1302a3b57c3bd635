"""Whole models on the platform: the reference's tokens, whoever shares the batch, whatever is cached, cut or preempted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hardpoint.config import EngineConfig
from hardpoint.contract.device import Capabilities
from hardpoint.contract.errors import ConfigError
from hardpoint.contract.platform import Platform
from hardpoint.plugins import Catalogue
from hardpoint.testing.conformance import invariance
from hardpoint.testing.conformance.models import (
    Reference,
    all_logprobs,
    check_errors,
    check_verdict,
    greedy,
    prompts,
)
from hardpoint.testing.conformance.plugin import refuse
from hardpoint.testing.tiny_models import make_tiny
from hardpoint.weights import model_shape, resolve

_MODELS = ("LlamaForCausalLM", "Qwen3ForCausalLM", "Gemma2ForCausalLM", "Qwen3MoeForCausalLM")
_TOKENS = 12
#: Long enough for sequences to outgrow a small cache.
_LONG = 40


@pytest.fixture(scope="module", params=_MODELS)
def model(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, platform: Platform, catalogue: Catalogue
) -> tuple[str, Path]:
    """A tiny checkpoint with random weights, of a family that the platform does not refuse."""
    folder = tmp_path_factory.mktemp("tiny")
    make_tiny(request.param, folder, seed=5)
    config = EngineConfig.of(model=str(folder), platform=platform.name)
    try:
        platform.constrain(model_shape(resolve(config.model, catalogue)), config)
    except ConfigError as error:
        refuse(str(error))
    return request.param, folder


@pytest.fixture(scope="module")
def settings(platform: Platform, caps: Capabilities, allowed: tuple[str, ...]) -> dict[str, Any]:
    """What every engine of this module is made with: float32 where the device has it."""
    dtype = "float32" if "float32" in caps.dtypes else caps.preferred_dtype
    return {"platform": platform.name, "dtype": dtype, "allow_plugins": allowed, "kv_cache_memory": "64M"}


@pytest.fixture(scope="module")
def reference(model: tuple[str, Path], settings: dict[str, Any]) -> Reference:
    """``transformers`` on the same weights."""
    return Reference(model[1], settings["dtype"])


def _engine(folder: Path, settings: dict[str, Any], **changes: Any) -> Any:
    from hardpoint.llm import LLM

    return LLM(str(folder), **{**invariance.COMMON, **settings, **changes})


def test_log_probabilities_are_the_references(
    model: tuple[str, Path], settings: dict[str, Any], reference: Reference
) -> None:
    with _engine(model[1], settings) as llm:
        outputs = all_logprobs(llm, prompts(200, count=4, longest=40), 4)
    check_errors(reference.errors(outputs), settings["dtype"])


def test_greedy_tokens_are_the_references(
    model: tuple[str, Path], settings: dict[str, Any], reference: Reference
) -> None:
    asked = prompts(200)
    with _engine(model[1], settings) as llm:
        found = greedy(llm, asked, _TOKENS)
        assert llm.get_metrics()["blocks_used"] == 0
    check_verdict(reference.judge_all(asked, found), routed="Moe" in model[0])


def test_tokens_depend_on_the_prompt_alone(
    model: tuple[str, Path], settings: dict[str, Any], reference: Reference
) -> None:
    asked = prompts(200, count=6, longest=60)
    expected, info = invariance.default_run(model[1], asked, _LONG, **settings)
    first, warm = expected[: len(asked)], expected[len(asked) :]
    runs = invariance.variant_runs(model[1], asked, _LONG, info, **settings)
    for name, found in [("warm prefix cache", warm), *runs]:
        if settings["dtype"] == "float32":
            assert found == first, name
        else:
            check_verdict(reference.judge_all(asked, found), routed="Moe" in model[0])


def test_the_engine_explains_its_choices(model: tuple[str, Path], settings: dict[str, Any]) -> None:
    with _engine(model[1], settings) as llm:
        description = llm.info.description
        greedy(llm, [[1, 2, 3]], 1)
    told = repr(description)
    assert settings["platform"] in told
    assert {"device", "kv", "memory"} <= set(description)
