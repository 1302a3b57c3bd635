"""``hardpoint bench compare``: two results side by side."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import click

from hardpoint.cli.render import as_json, console, section
from hardpoint.contract.errors import ConfigError

#: Numbers that are compared, where both results have them: key -> (column, whether more is better).
_NUMBERS: Final = {
    "median_s": ("s", False),
    "s": ("s", False),
    "out_tok_s": ("output tok/s", True),
    "total_tok_s": ("tok/s", True),
    "ttft_ms": ("TTFT ms", False),
    "tpot_ms": ("ms per token", False),
    "startup_s": ("start s", False),
    "output_throughput": ("output tok/s", True),
    "request_throughput": ("requests/s", True),
    "median_ttft_ms": ("TTFT ms, median", False),
    "p99_ttft_ms": ("TTFT ms, 99%", False),
    "median_tpot_ms": ("ms per token, median", False),
    "median_itl_ms": ("ITL ms, median", False),
    "median_e2el_ms": ("E2EL ms, median", False),
}
#: What explains a difference, when it differs.
_EXPLAINS: Final = ("versions", "config", "chosen", "host", "seed", "scale", "requests", "args", "engine")


@click.command()
@click.argument("before", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("after", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--json", "plain", is_flag=True, help="Print JSON.")
def compare(before: Path, after: Path, plain: bool) -> None:
    """Compare two JSON results of ``workload``, ``sweep``, ``serve``, ``latency`` or ``throughput``.

    A change within the spread of both results' repetitions is no change: it is marked as noise.
    """
    old, new = _read(before), _read(after)
    rows = list(changes(old, new))
    if not rows:
        raise ConfigError(f"{before} and {after} have no measured row in common; compare results of the same command")
    causes = list(differences(old, new))
    if plain:
        as_json({"changes": rows, "differences": causes})
        return
    out = console()
    section(
        out,
        "Changes",
        ("ROW", "NUMBER", "BEFORE", "AFTER", "CHANGE", ""),
        (
            (r["row"], r["number"], f"{r['before']:,.4g}", f"{r['after']:,.4g}", f"{r['change']:+.1%}", r["verdict"])
            for r in rows
        ),
    )
    section(out, "What else differs", ("WHAT", "BEFORE", "AFTER"), ([str(c) for c in cause] for cause in causes))


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield what both results measured: row, number, before, after, change as a share, and ``verdict``.

    ``verdict`` is ``"better"``, ``"worse"``, or ``"noise"`` for a change that is smaller than the spread of either result.
    """
    mine, theirs = dict(_rows(old)), dict(_rows(new))
    for name, row in mine.items():
        other = theirs.get(name, {})
        noise = max(float(row.get("spread", 0.0)), float(other.get("spread", 0.0)))
        for key, (title, more) in _NUMBERS.items():
            before, after = row.get(key), other.get(key)
            if not isinstance(before, (int, float)) or not isinstance(after, (int, float)) or not before:
                continue
            change = (after - before) / before
            verdict = "noise" if abs(change) <= noise else "better" if (change > 0) == more else "worse"
            yield {
                "row": name,
                "number": title,
                "before": before,
                "after": after,
                "change": change,
                "verdict": verdict,
            }


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Yield ``(what, before, after)`` of settings, versions and choices that are not the same."""
    for part in _EXPLAINS:
        yield from _different(part, old.get(part), new.get(part))


def _different(where: str, before: Any, after: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in sorted({*before, *after}):
            yield from _different(f"{where}.{key}", before.get(key), after.get(key))
    elif before != after:
        yield where, _short(before), _short(after)


def _short(value: Any) -> Any:
    text = json.dumps(value, default=str)
    return value if len(text) <= 60 else text[:57] + "..."


def _rows(result: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the measured rows of a result by name."""
    for name, row in result.get("workloads", {}).items():
        yield name, row
    for row in result.get("points", []):
        yield f"{row['concurrency']} at once", row
    # Other results keep their rows, or their only one, at the top.
    if "workloads" not in result and "points" not in result:
        yield "result", result
        for name, row in result.items():
            if isinstance(row, Mapping) and ("out_tok_s" in row or "median_s" in row):
                yield name, row
    elif "startup_s" in result:
        yield "start", {"startup_s": result["startup_s"]}


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ConfigError(f"{path} is no result: {error}; give a file that --output-json wrote") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{path} holds {type(found).__name__}; give a file that --output-json wrote")
    return found
