"""Every native architecture against ``transformers``, and invariance, on one platform; a line a case.

    python benchmarks/gpu/parity.py [--platform cuda] [--dtypes float32,bfloat16] [--invariance] [ARCHITECTURE ...]

Random weights, rows and heads as wide as real models' (:data:`hardpoint.testing.conformance.models.WIDE`). Exit code 1
when a case fails.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from arguments import add_settings, settings_of

from hardpoint import LLM
from hardpoint.testing.conformance import invariance, models
from hardpoint.testing.tiny_models import ARCHITECTURES, FALLBACK_ARCHITECTURES, make_tiny

#: Tokens of each greedy answer that is compared between settings.
OUTPUT = 48
NATIVE = tuple(name for name in ARCHITECTURES if name not in FALLBACK_ARCHITECTURES)


def make(architecture: str, root: Path) -> Path:
    """Write a checkpoint with rows as wide as real models have."""
    wide = {**models.WIDE, **(models.WIDE_MOE if routed(architecture) else {})}
    return make_tiny(architecture, root / architecture, seed=3, **wide)


def routed(architecture: str) -> bool:
    """Return whether a router chooses experts."""
    return "Moe" in architecture or architecture in ("MixtralForCausalLM", "GptOssForCausalLM")


def parity(architecture: str, folder: Path, platform: str, dtype: str, extra: Mapping[str, Any]) -> str:
    """Check log-probabilities and greedy tokens; return what was found."""
    prompts = models.prompts(models.WIDE["vocab_size"])
    settings = {"platform": platform, "dtype": dtype, "kv_cache_memory": "200M", **extra}
    begin = time.monotonic()
    with LLM(str(folder), **invariance.COMMON, **settings) as llm:
        started = time.monotonic() - begin
        outputs = models.all_logprobs(llm, prompts[:4], 6)
        tokens = models.greedy(llm, prompts, 24)
        ran = time.monotonic() - begin - started
    reference = models.Reference(folder, dtype)
    errors, verdict = reference.errors(outputs), reference.judge_all(prompts, tokens)
    found = f"{errors}; greedy: {verdict}; start {started:.1f} s, runs {ran:.1f} s"
    try:
        models.check_errors(errors, dtype)
        models.check_verdict(verdict, routed=routed(architecture) and dtype != "float32")
    except AssertionError as error:
        raise AssertionError(found) from error
    return found


def invariant(architecture: str, folder: Path, platform: str, dtype: str, extra: Mapping[str, Any]) -> str:
    """Check that no variant changes greedy tokens; return what was found."""
    prompts = models.prompts(models.WIDE["vocab_size"])
    settings = {"platform": platform, "dtype": dtype, "kv_cache_memory": "200M", **extra}
    both, info = invariance.default_run(folder, prompts, OUTPUT, **settings)
    reference = models.Reference(folder, dtype)
    expected, again = both[: len(prompts)], both[len(prompts) :]
    runs = [("default", expected), ("cached prefixes", again)]
    runs += invariance.variant_runs(folder, prompts, OUTPUT, info, **settings)
    lines, failed = [], []
    for name, tokens in runs:
        equal = sum(a == b for a, b in zip(tokens, expected, strict=True))
        verdict = reference.judge_all(prompts, tokens)
        lines.append(f"{name}: {equal}/{len(prompts)} equal, {verdict}")
        try:
            models.check_verdict(verdict, routed=routed(architecture) and dtype != "float32")
            assert dtype != "float32" or equal == len(prompts)
        except AssertionError:
            failed.append(name)
    if failed:
        raise AssertionError(f"{', '.join(failed)} changed the tokens\n  " + "\n  ".join(lines))
    return "\n  " + "\n  ".join(lines)


def _cause(error: BaseException) -> str:
    """Return the innermost exception and where it was raised, in a line."""
    while error.__cause__ is not None:
        error = error.__cause__
    at = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {str(error)[:300]} ({Path(at.filename).name}:{at.lineno})".replace("\n", " ")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("architectures", nargs="*", default=NATIVE)
    parser.add_argument("--platform", default="cuda")
    parser.add_argument("--dtypes", default="float32,bfloat16")
    add_settings(parser)
    parser.add_argument("--invariance", action="store_true", help="check invariance instead of parity")
    given = parser.parse_args(arguments)
    torch.set_num_threads(2)
    extra = settings_of(given.set)
    check, failures, began = invariant if given.invariance else parity, 0, time.monotonic()
    with tempfile.TemporaryDirectory() as root:
        for architecture in given.architectures:
            for dtype in given.dtypes.split(","):
                begin = time.monotonic()
                try:
                    found = "ok: " + check(architecture, make(architecture, Path(root)), given.platform, dtype, extra)
                except Exception as error:
                    failures += 1
                    found = f"FAILED: {error if isinstance(error, AssertionError) else _cause(error)}"
                seconds = time.monotonic() - begin
                print(f"{architecture} {dtype} [{seconds:.1f} s] {found}", flush=True)
    print(f"{failures} failed, {time.monotonic() - began:.0f} s", flush=True)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
