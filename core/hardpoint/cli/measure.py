"""Statistics of measured times, and where results are written."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np


def percentiles(seconds: Sequence[float], wanted: Sequence[float]) -> dict[str, float]:
    """Return ``{"p99": ...}`` for each percentile of ``wanted``; names have no trailing zeros."""
    if not len(seconds):
        return {f"p{each:g}": 0.0 for each in wanted}
    found = np.percentile(np.asarray(seconds), list(wanted))
    return {f"p{each:g}": float(value) for each, value in zip(wanted, found, strict=True)}


def summary(seconds: Sequence[float], name: str, wanted: Sequence[float]) -> dict[str, float]:
    """Return mean, median, standard deviation and percentiles in milliseconds, keyed as vLLM keys them."""
    values = np.asarray(seconds, dtype=float) * 1e3 if len(seconds) else np.zeros(1)
    made = {
        f"mean_{name}_ms": float(values.mean()),
        f"median_{name}_ms": float(np.median(values)),
        f"std_{name}_ms": float(values.std()),
    }
    return made | {f"{key}_{name}_ms": value * 1e3 for key, value in percentiles(seconds, wanted).items()}


def machine() -> dict[str, Any]:
    """Return what a result must say about where it was measured."""
    import hardpoint

    return {"hardpoint": hardpoint.__version__, "python": platform.python_version(), "machine": platform.platform()}


def write_json(path: str, result: dict[str, Any]) -> None:
    """Write a result; parent folders are made."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
