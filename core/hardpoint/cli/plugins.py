"""``hardpoint plugins``: what is installed, what of it may be loaded, and whether it works."""

from __future__ import annotations

import sys
from typing import Any

import click
import msgspec

from hardpoint.cli.options import SettingsCommand, options_of, settings_from
from hardpoint.cli.render import as_json, console, table
from hardpoint.config import PluginConfig
from hardpoint.contract.version import CONTRACT
from hardpoint.plugins import Catalogue, Record
from hardpoint.plugins.check import Checked, check


@click.command(cls=SettingsCommand)
@click.option("--check", "checked", is_flag=True, help="Load each that may be loaded, and probe platforms.")
@click.option("--timeout", type=float, default=60.0, show_default=True, help="Seconds that --check gives each.")
@click.option("--kind", type=click.Choice(tuple(CONTRACT)), metavar="KIND", help="Only plugins of this kind.")
@click.option("--json", "plain", is_flag=True, help="Print JSON.")
@options_of(PluginConfig, "Plugins")
def plugins(checked: bool, timeout: float, kind: str | None, plain: bool, **given: Any) -> None:
    """List installed plugins and where each stands. Imports none, unless --check asks for it.

    --check imports each in another process. It exits with 1 when one that may be loaded is broken; a platform without a
    device on this machine is not.
    """
    catalogue = Catalogue.of(settings_from(PluginConfig, given))
    records = [record for record in catalogue.records if kind in (None, record.kind)]
    results = {result.plugin: result for result in check(records, timeout)} if checked else {}
    lines = [_line(record, results.get(record.identity) if record.usable else None) for record in records]
    if plain:
        as_json(lines)
    else:
        columns = [
            "kind",
            "name",
            "state",
            "distribution",
            "version",
            "target",
            *(["seconds"] if checked else []),
            "reason",
        ]
        rows = [[line.get(column) for column in columns] for line in lines]
        console().print(table([column.upper() for column in columns], rows))
    if any(result.error for result in results.values()):
        sys.exit(1)


def _line(record: Record, result: Checked | None) -> dict[str, Any]:
    line: dict[str, Any] = {
        "kind": record.kind,
        "name": record.name,
        "state": record.state.value,
        "distribution": record.distribution,
        "version": record.version,
        "target": record.target,
        "reason": record.reason,
    }
    if result is None:
        return line
    return line | {
        "state": result.state,
        "reason": result.reason,
        "seconds": round(result.seconds, 3),
        "summary": result.summary,
        "devices": msgspec.to_builtins(result.devices),
    }
