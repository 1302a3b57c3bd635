"""Engine settings from ``--set NAME=VALUE``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from typing import Any


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add ``--set``, which may be repeated."""
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="an engine setting")


def settings_of(items: Iterable[str]) -> dict[str, Any]:
    """Return settings by name; values are JSON where they can be read as such, else text."""
    found: dict[str, Any] = {}
    for item in items:
        name, _, value = item.partition("=")
        try:
            found[name] = json.loads(value)
        except json.JSONDecodeError:
            found[name] = value
    return found
