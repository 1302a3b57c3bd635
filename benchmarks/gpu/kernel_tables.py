"""Tables of what ``linear.py``, ``attention.py`` and ``moe.py`` wrote with ``--json``, each time beside its own ceiling."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

#: The model whose kernels are shown whole; the files hold the others too.
SHOWN: Final = "llama-8b"


def kernels_section(folder: Path) -> str:
    """Return all three tables in Markdown; a file that is not there was not measured."""
    parts = []
    for title, name, command, make in (
        ("Products", "linear.json", "linear.py", _linear),
        ("Attention", "attention.json", "attention.py", _attention),
        ("Layers of experts", "moe.json", "moe.py", _moe),
    ):
        path = folder / name
        parts.append(f"**{title}**, by `python benchmarks/gpu/{command} --json benchmarks/h200/{name}`\n")
        if not path.exists():
            parts.append("Not measured.\n")
            continue
        data = json.loads(path.read_text(encoding="utf-8"))
        if "read_bytes_per_second" in data:
            read, rate = data["read_bytes_per_second"] / 1e12, data["operations_per_second"] / 1e12
            parts.append(f"Ceilings measured in the same run: {read:.2f} TB/s, {rate:.0f} TFLOP/s.\n")
        parts.append(make(data["results"]) + "\n")
    return "\n".join(parts)


def _linear(results: Sequence[dict[str, Any]]) -> str:
    rows = sorted({result["rows"] for result in results})
    found = {(r["model"], r["layer"], r["rows"]): r for r in results}
    lines = [
        "Microseconds of ours with its norm, activation or residual / of cuBLAS's bare product / floor of the bare product.\n",
        "| model | layer | " + " | ".join(f"{count:,} rows" for count in rows) + " |",
        "|---|---|" + "---:|" * len(rows),
    ]
    for model, layer in dict.fromkeys((r["model"], r["layer"]) for r in results):
        cells = [_three(found.get((model, layer, count)), ("ours", "cublas", "floor")) for count in rows]
        lines.append(f"| {model} | {layer} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _attention(results: Sequence[dict[str, Any]]) -> str:
    shown = [r for r in results if r["model"] == SHOWN]
    columns = list(dict.fromkeys((r["backend"], r["kv_dtype"]) for r in shown))
    found = {(r["part"], r["requests"], r["context"], r["new"], r["backend"], r["kv_dtype"]): r for r in shown}
    lines = [
        f"{SHOWN}, microseconds of one layer between its projections, and how many times its floor; -: refused or not captured.\n",
        "| part | requests | context | new tokens | "
        + " | ".join(f"{b}, {k} cache" for b, k in columns)
        + " | floor |",
        "|---|---:|---:|---:|" + "---:|" * (len(columns) + 1),
    ]
    for key in dict.fromkeys((r["part"], r["requests"], r["context"], r["new"]) for r in shown):
        of = [found.get((*key, *column)) for column in columns]
        cells = [f"{r['time']:,.1f} ({r['time'] / r['floor']:.2f})" if r and r["time"] else "-" for r in of]
        floor = next((f"{r['floor']:,.1f}" for r in of if r), "")
        part, requests, context, new = key
        lines.append(f"| {part} | {requests} | {context:,} | {new:,} | " + " | ".join(cells) + f" | {floor} |")
    return "\n".join(lines)


def _moe(results: Sequence[dict[str, Any]]) -> str:
    rows = sorted({result["rows"] for result in results})
    found = {(r["model"], r["rows"]): r for r in results}
    lines = [
        "Microseconds of one layer / its floor.\n",
        "| model | " + " | ".join(f"{count:,} rows" for count in rows) + " |",
        "|---|" + "---:|" * len(rows),
    ]
    for model in dict.fromkeys(result["model"] for result in results):
        cells = [_three(found.get((model, count)), ("ours", "floor")) for count in rows]
        lines.append(f"| {model} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _three(result: dict[str, Any] | None, keys: Sequence[str]) -> str:
    return "" if result is None else " / ".join(f"{result[key]:,.1f}" for key in keys)
