"""``hardpoint explain``: what would be chosen for a model, by whom and why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import click
from rich.console import Console

from hardpoint.cli.options import SettingsCommand, config_from, engine_options
from hardpoint.cli.render import as_json, console, section, size


@click.command(cls=SettingsCommand)
@click.option("--json", "plain", is_flag=True, help="Print JSON.")
@engine_options(model_argument=True)
def explain(plain: bool, **given: Any) -> None:
    """Show every choice that running MODEL with these options would make, who made it and why.

    The model is built with random weights, unless --load-format says otherwise, and no cache is allocated: only
    config.json is needed, and the memory that the weights take.
    """
    from hardpoint.engine.assembly import preview

    if given.get("load_format") is None:
        given["load_format"] = "dummy"
    info = preview(config_from(given))
    facts = {
        "model": info.model,
        "max_model_len": info.max_model_len,
        "vocab_size": info.vocab_size,
        "num_blocks": info.num_blocks,
        "block_size": info.block_size,
        "config": info.config,
        "description": info.description,
    }
    if plain:
        as_json(facts)
    else:
        show(console(), facts)


def show(out: Console, facts: Mapping[str, Any]) -> None:
    """Print an engine's description.

    Args:
        out: where to.
        facts: :class:`hardpoint.engine.messages.EngineInfo` by name; parts that an executor did not describe are left out.
    """
    description = facts["description"]
    model = description.get("model", {})
    rows = [
        ("model", facts["model"]),
        *((what, model.get(what)) for what in ("architecture", "implementation", "weights", "dtype", "quantization")),
        ("context", f"{facts['max_model_len']} tokens"),
        ("vocabulary", f"{facts['vocab_size']} tokens"),
    ]
    section(out, "Model", ("WHAT", "IS"), rows)
    _platform(out, description)
    _settings(out, description.get("adjustments", []))
    ops = ((op["op"], op["provider"], op["reason"]) for op in description.get("ops", []))
    section(out, "Ops", ("OP", "PROVIDER", "WHY"), ops)
    section(
        out,
        "Attention",
        ("LAYERS", "KIND", "BACKEND", "STATE", "WHY"),
        (row for entry in description.get("attention", []) for row in _attention(entry)),
    )
    _linear(out, model)
    _prepared(out, description.get("prepared"))
    _cache(out, facts)


def _platform(out: Console, description: Mapping[str, Any]) -> None:
    chosen = (
        description["platform"],
        "chosen",
        f"{description.get('device', '')} {description.get('arch', '')}".strip(),
    )
    refused = ((name, "not chosen", why) for name, why in description.get("platforms_refused", {}).items())
    section(out, "Platforms", ("NAME", "STATE", "WHY"), (chosen, *refused))


def _settings(out: Console, adjustments: Iterable[Mapping[str, Any]]) -> None:
    rows = ((a["field"], a["old"], a["new"], a["plugin"], a["reason"]) for a in adjustments)
    section(out, "Settings adjusted", ("SETTING", "FROM", "TO", "BY", "WHY"), ([str(c) for c in row] for row in rows))


def _attention(entry: Mapping[str, Any]) -> Iterable[tuple[str, str, str, str, str]]:
    window = entry.get("window")
    kind = f"{'full' if window is None else f'window {window}'}, {entry.get('heads')} heads of {entry.get('head_size')}"
    kind += f", {entry.get('kv_heads')} for keys, {entry.get('kv_dtype')}"
    where = ranges(entry["layers"])
    yield where, kind, entry["backend"], "accepted", entry.get("why", "")
    for name, reasons in entry.get("refused", {}).items():
        yield where, kind, name, "refused", "; ".join(reasons)


def _linear(out: Console, model: Mapping[str, Any]) -> None:
    kinds = model.get("linear_layers", [])
    rows = ((k["layers"], str(k["count"]), k["stored"], k["runs"], k["kernel"]) for k in kinds)
    section(out, "Linear layers", ("LAYERS", "COUNT", "STORED", "RUN AS", "KERNEL"), rows)
    used = [(name, "used", f"{count} layers") for name, count in model.get("linear_kernels", {}).items()]
    refused = [
        (name, "refused", "; ".join(reasons)) for name, reasons in model.get("linear_kernels_refused", {}).items()
    ]
    section(out, "Linear kernels", ("KERNEL", "STATE", "WHY"), [*used, *refused])


def _prepared(out: Console, prepared: Mapping[str, Any] | None) -> None:
    """Show which decode steps are prepared; before an engine has started, which will be."""
    if prepared is None:
        return
    kinds = [(kind["sampling"], ranges(kind["sizes"]), "prepared") for kind in prepared["kinds"]]
    kinds.append(("greedy", ranges(prepared.get("first", [])), "at start"))
    have = {size for kind in prepared["kinds"] for size in kind["sizes"]} | set(prepared.get("first", []))
    later = [size for size in prepared["possible"] if size not in have and size not in prepared["refused"]]
    rows = [
        *kinds,
        ("any", ranges(later), "when used, or in idle time"),
        ("any", ranges(prepared["refused"]), "no memory"),
    ]
    section(out, "Prepared decode steps", ("SAMPLING", "ROWS", "STATE"), [row for row in rows if row[1]])


def _cache(out: Console, facts: Mapping[str, Any]) -> None:
    groups = facts["description"].get("kv", {}).get("groups", [])
    rows = (
        (i, "full" if group["window"] is None else f"window {group['window']}", ranges(group["layers"]))
        for i, group in enumerate(groups)
    )
    section(out, "Cache groups", ("GROUP", "ATTENTION", "LAYERS"), rows)
    blocks = f"{facts['num_blocks']} blocks of {facts['block_size']} tokens, shared by the groups"
    memory = [(what, size(count)) for what, count in facts["description"].get("memory", [])]
    section(out, "Memory", ("WHAT", "TAKES"), [*memory, ("cache", blocks)])


def ranges(numbers: Iterable[int]) -> str:
    """Return numbers in order with runs joined, e.g. ``"0-3, 5"``."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
