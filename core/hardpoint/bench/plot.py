"""Throughput and latency against the number of requests at once, drawn to a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hardpoint.contract.errors import ConfigError


def draw(results: Sequence[Mapping[str, Any]], path: str) -> None:
    """Draw results of ``hardpoint bench sweep`` to ``path``; its ending decides the format (``.svg``, ``.png``, ``.pdf``).

    Args:
        results: each with ``label`` and ``points``.
        path: of the picture.

    Raises:
        ConfigError: when matplotlib is not installed, or the ending is no format.
    """
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError("a plot needs matplotlib; pip install 'hardpoint[bench]'") from error
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for result in results:
        points = sorted(result["points"], key=lambda point: point["concurrency"])
        at = [point["concurrency"] for point in points]
        low, high = (
            [point["out"] / value for point in points for value in [pick(point["all_s"])]] for pick in (max, min)
        )
        (line,) = left.plot(at, [point["out_tok_s"] for point in points], "o-", label=result["label"])
        left.fill_between(at, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
        right.plot(at, [p["tpot_ms"] for p in points], "o-", color=line.get_color(), label=f"{result['label']}: token")
        right.plot(at, [p["ttft_ms"] for p in points], "s--", color=line.get_color(), label=f"{result['label']}: first")
    left.set(xscale="log", yscale="log", xlabel="requests at once", ylabel="output tokens per second")
    right.set(xscale="log", yscale="log", xlabel="requests at once", ylabel="ms, median")
    left.set_title("throughput")
    right.set_title("time per output token, time to first token")
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.grid(alpha=0.3)
        axes.legend()
    try:
        # Text stays text, and the same result draws the same file.
        with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "hardpoint"}):
            figure.savefig(path, dpi=120, metadata={"Date": None} if path.endswith(".svg") else None)
    except ValueError as error:
        raise ConfigError(f"--plot {path}: {error}; end its name in .svg, .png or .pdf") from error
