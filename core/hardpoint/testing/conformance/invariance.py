"""Greedy tokens depend on the prompt alone: not on graphs, chunks, cached prefixes, preemption, overlap or batch mates."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from hardpoint.engine.messages import EngineInfo
from hardpoint.llm import LLM
from hardpoint.testing.conformance.models import greedy

MAX_MODEL_LEN: Final = 192
#: What every run has in common.
COMMON: Final[dict[str, Any]] = {"skip_tokenizer_init": True, "max_model_len": MAX_MODEL_LEN}
#: Name -> settings; ``"alone"`` and ``"preemption"`` are run as their names say.
VARIANTS: Final[dict[str, dict[str, Any]]] = {
    "eager": {"enforce_eager": True},
    "chunks of 24": {"max_num_batched_tokens": 24, "max_num_seqs": 4},
    "no prefix cache": {"enable_prefix_caching": False},
    "one step in flight": {"async_scheduling": False},
    "preemption": {},
    "alone": {"enable_prefix_caching": False},
}
#: Cache sizes that are tried, in sequences of the greatest length.
_ROOMS: Final = (1.25, 1.0, 1.5, 2.0)


def default_run(
    folder: Path | str, prompts: Sequence[Sequence[int]], max_tokens: int, **settings: Any
) -> tuple[list[list[int]], EngineInfo]:
    """Return the greedy tokens of prompts that run together, twice for a warm prefix cache, and the engine's facts."""
    with LLM(str(folder), **{**COMMON, **settings}) as llm:
        first = greedy(llm, prompts, max_tokens)
        again = greedy(llm, prompts, max_tokens)
        return [*first, *again], llm.info


def variant_runs(
    folder: Path | str, prompts: Sequence[Sequence[int]], max_tokens: int, info: EngineInfo, **settings: Any
) -> Iterator[tuple[str, list[list[int]]]]:
    """Yield each variant's name and its greedy tokens.

    Args:
        folder: of the checkpoint.
        prompts: token ids.
        max_tokens: tokens to generate for each.
        info: of an engine with default settings, from :func:`default_run`.
        settings: platform, dtype and what else all variants share.

    Raises:
        AssertionError: when the variant that must preempt does not: it would prove nothing.
    """
    for name, changes in VARIANTS.items():
        given = {**COMMON, **settings, **changes}
        if name == "preemption":
            yield name, _preempted(folder, prompts, max_tokens, info, given)
            continue
        with LLM(str(folder), **given) as llm:
            if name == "alone":
                yield name, [greedy(llm, [prompt], max_tokens)[0] for prompt in prompts]
            else:
                yield name, greedy(llm, prompts, max_tokens)


def _preempted(
    folder: Path | str, prompts: Sequence[Sequence[int]], max_tokens: int, info: EngineInfo, given: dict[str, Any]
) -> list[list[int]]:
    """Run with as few cache blocks as make some sequence give its own back."""
    longest = math.ceil(MAX_MODEL_LEN / info.block_size) * len(info.description["kv"]["groups"])
    for room in _ROOMS:
        with LLM(str(folder), **{**given, "num_blocks": int(longest * room) + 1}) as llm:
            tokens = greedy(llm, prompts, max_tokens)
            assert llm.get_metrics()["blocks_used"] == 0
            if llm.get_metrics()["preemptions"]:
                return tokens
    raise AssertionError(f"nothing was preempted with {longest} blocks and up to {_ROOMS[-1]} times as many")
