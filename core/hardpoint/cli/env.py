"""``hardpoint env``: what a bug report needs to say about a machine."""

from __future__ import annotations

import importlib.metadata
import os
import platform as host
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any, Final

import click
import msgspec
import psutil

from hardpoint.cli.options import SettingsCommand, options_of, settings_from
from hardpoint.cli.render import as_json, console, section, size
from hardpoint.config import PluginConfig
from hardpoint.plugins import Catalogue
from hardpoint.plugins.check import check

#: Processor features that decide how fast matrices are multiplied.
FEATURES: Final = (
    *("avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
    *("amx_tile", "amx_int8", "amx_bf16"),
    *("asimd", "asimddp", "bf16", "i8mm", "sve", "sve2", "sme"),
)


@click.command(cls=SettingsCommand)
@click.option(
    "--timeout", type=float, default=60.0, show_default=True, help="Seconds that probing a platform may take."
)
@click.option("--json", "plain", is_flag=True, help="Print JSON.")
@options_of(PluginConfig, "Plugins")
def env(timeout: float, plain: bool, **given: Any) -> None:
    """Show versions, machine and platforms."""
    config = settings_from(PluginConfig, given)
    facts: dict[str, Any] = {
        "python": sys.version.split()[0],
        "system": host.platform(),
        "packages": packages(),
        "machine": machine(),
        "platforms": platforms(Catalogue.of(config), timeout),
    }
    if plain:
        as_json(facts)
        return
    out = console()
    processor = facts["machine"]
    rows = [
        ("python", facts["python"]),
        ("system", facts["system"]),
        ("processor", processor["processor"]),
        ("features", " ".join(processor["features"])),
        ("cores", f"{processor['usable_cores']} usable of {processor['logical_cores']}"),
        ("memory", f"{size(processor['memory_available'])} available of {size(processor['memory_total'])}"),
    ]
    section(out, "Machine", ("WHAT", "IS"), rows)
    section(out, "Packages", ("NAME", "VERSION"), sorted(facts["packages"].items()))
    section(
        out,
        "Platforms",
        ("NAME", "STATE", "DISTRIBUTION", "DEVICES", "REASON"),
        ((p["name"], p["state"], p["distribution"], _devices(p["devices"]), p["reason"]) for p in facts["platforms"]),
    )


def packages() -> dict[str, str]:
    """Return the versions of hardpoint and of what it declares to need, optional parts included when installed."""
    needed = (re.match(r"[A-Za-z0-9._-]+", line) for line in importlib.metadata.requires("hardpoint") or [])
    names = ["hardpoint", *(found[0] for found in needed if found)]
    versions: dict[str, str] = {}
    for name in names:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def machine() -> dict[str, Any]:
    """Return processor, cores and memory, in bytes."""
    name, features = _processor()
    memory = psutil.virtual_memory()
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "processor": name,
        "features": features,
        "logical_cores": os.cpu_count(),
        "usable_cores": usable,
        "memory_total": memory.total,
        "memory_available": memory.available,
    }


def _processor() -> tuple[str, list[str]]:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return host.processor() or host.machine(), []
    name = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE)
    have = set(flags[1].split()) if flags else set()
    return (name[1] if name else host.machine()), [feature for feature in FEATURES if feature in have]


def platforms(catalogue: Catalogue, timeout: float) -> list[dict[str, Any]]:
    """Return every platform plugin with what probing it in a process of its own gave."""
    records = [record for record in catalogue.records if record.kind == "platforms"]
    results = {result.plugin: result for result in check(records, timeout)}
    lines = []
    for record in records:
        result = results.get(record.identity) if record.usable else None
        lines.append(
            {
                "name": record.name,
                "distribution": record.origin,
                "state": record.state.value if result is None else result.state,
                "reason": record.reason if result is None else result.reason,
                "devices": [] if result is None else msgspec.to_builtins(result.devices),
            }
        )
    return lines


def _devices(devices: list[dict[str, Any]]) -> str:
    """Return devices in words, equal ones counted."""
    alike = Counter(f"{device['name']} {device['arch']} {size(device['total_bytes'])}" for device in devices)
    return "; ".join(f"{count} x {words}" for words, count in alike.items())
