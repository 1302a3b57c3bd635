"""Native architectures on a GPU against ``transformers``, and invariance there. Needs one: ``pytest -m gpu``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hardpoint import LLM
from hardpoint.testing.conformance import invariance, models
from hardpoint.testing.tiny_models import ARCHITECTURES, FALLBACK_ARCHITECTURES, make_tiny
from hardpoint_cuda.platform import CudaPlatform

pytestmark = pytest.mark.gpu

NATIVE = [name for name in ARCHITECTURES if name not in FALLBACK_ARCHITECTURES]
ROUTED = {"MixtralForCausalLM", "Qwen2MoeForCausalLM", "Qwen3MoeForCausalLM", "GptOssForCausalLM"}
DTYPES = ("float32", "bfloat16")
PROMPTS = models.prompts(models.WIDE["vocab_size"])
OUTPUT = 48


@pytest.fixture(scope="module")
def platform() -> str:
    """Return the platform's name where there is a GPU."""
    if (reason := CudaPlatform().probe()) is not None:
        pytest.skip(reason)
    return "cuda"


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the folder of a small model with rows as wide as real ones, by architecture."""
    made: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in made:
            sizes = {**models.WIDE, **(models.WIDE_MOE if name in ROUTED else {})}
            made[name] = make_tiny(name, tmp_path_factory.mktemp("wide") / name, seed=3, **sizes)
        return made[name]

    return get


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NATIVE)
def test_log_probabilities_and_greedy_tokens(
    name: str, dtype: str, platform: str, wide: Callable[[str], Path], record_property: Callable[[str, Any], None]
) -> None:
    settings = {"platform": platform, "dtype": dtype, "kv_cache_memory": "200M", **invariance.COMMON}
    with LLM(str(wide(name)), **settings) as llm:
        outputs = models.all_logprobs(llm, PROMPTS[:4], 6)
        tokens = models.greedy(llm, PROMPTS, 24)
    reference = models.Reference(wide(name), dtype)
    errors, verdict = reference.errors(outputs), reference.judge_all(PROMPTS, tokens)
    record_property("errors", str(errors))
    record_property("greedy", str(verdict))
    models.check_errors(errors, dtype)
    models.check_verdict(verdict, routed=name in ROUTED and dtype != "float32")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["LlamaForCausalLM", "Gemma3ForCausalLM", "Qwen3MoeForCausalLM"])
def test_greedy_tokens_depend_on_the_prompt_alone(
    name: str, dtype: str, platform: str, wide: Callable[[str], Path], record_property: Callable[[str, Any], None]
) -> None:
    """In float32 exactly; in bfloat16 every answer is the reference's up to what the type resolves, and that is counted."""
    settings = {"platform": platform, "dtype": dtype, "kv_cache_memory": "200M"}
    both, info = invariance.default_run(wide(name), PROMPTS, OUTPUT, **settings)
    expected, again = both[: len(PROMPTS)], both[len(PROMPTS) :]
    reference = models.Reference(wide(name), dtype)
    runs = [("default", expected), ("cached prefixes", again)]
    for variant, tokens in [*runs, *invariance.variant_runs(wide(name), PROMPTS, OUTPUT, info, **settings)]:
        if dtype == "float32":
            assert tokens == expected, variant
        verdict = reference.judge_all(PROMPTS, tokens)
        record_property(variant, str(verdict))
        models.check_verdict(verdict, routed=name in ROUTED and dtype != "float32")
