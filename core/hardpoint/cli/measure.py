"""Statistics of measured times, and where results are written."""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from hardpoint.engine.messages import EngineInfo


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


def spread(values: Sequence[float]) -> float:
    """Return the distance from the least to the greatest value, as a share of the median; 0 for one value."""
    middle = float(np.median(values))
    return (max(values) - min(values)) / middle if middle else 0.0


def record(info: EngineInfo) -> dict[str, Any]:
    """Return the full record of an engine that was measured: versions, machine, device, settings, what was chosen.

    ``digest`` is the SHA-256 of settings, choices and versions: equal digests mean that the same thing was measured.
    """
    from hardpoint.cli import env

    told = {
        "versions": {"python": platform.python_version(), **env.packages()},
        "model": info.model,
        "config": info.config,
        # How long it took and what was free differ from start to start.
        "chosen": {
            k: v
            for k, v in info.description.items()
            if k not in ("seconds_to_load", "seconds_to_ready", "memory", "kv", "prepared")
        },
    }
    text = json.dumps(told, sort_keys=True, default=str)
    return {
        **machine(),
        **told,
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "host": env.machine(),
        "kv": info.description.get("kv", {}),
        "memory": info.description.get("memory", []),
        "prepared": info.description.get("prepared"),
        "digest": hashlib.sha256(text.encode()).hexdigest(),
    }


def write_json(path: str, result: dict[str, Any]) -> None:
    """Write a result; parent folders are made."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(result, indent=1, default=str) + "\n", encoding="utf-8")
