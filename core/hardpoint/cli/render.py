"""Tables and headings on the terminal, and the same facts as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

_UNBOUNDED = 10_000


def console() -> Console:
    """Return a console on stdout; one that is no terminal has lines as long as they need to be."""
    made = Console(highlight=False)
    return made if made.is_terminal else Console(highlight=False, width=_UNBOUNDED, soft_wrap=True)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """Return a table of texts; ``None`` is an empty cell and nothing is taken for markup."""
    made = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    for column in columns:
        made.add_column(column, overflow="fold")
    for row in rows:
        made.add_row(*(Text("" if cell is None else str(cell)) for cell in row))
    return made


def section(where: Console, title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a heading and a table, or the heading and ``none``."""
    listed = list(rows)
    where.print()
    where.print(Text(title, style="bold cyan"))
    where.print(table(columns, listed) if listed else Text("none"))


def as_json(data: Any) -> None:
    """Print plain data as JSON."""
    click.echo(json.dumps(data, indent=2, default=str))


def size(count: int | None) -> str:
    """Return bytes in the unit in which they are read best, e.g. ``"1.5 GiB"``."""
    if count is None:
        return "?"
    value, units = float(count), ["B", "KiB", "MiB", "GiB", "TiB"]
    while abs(value) >= 1024 and len(units) > 1:
        value /= 1024
        units.pop(0)
    return f"{value:.0f} {units[0]}" if units[0] == "B" else f"{value:.1f} {units[0]}"
