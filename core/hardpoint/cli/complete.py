"""``hardpoint complete``: continue a text."""

from __future__ import annotations

import sys
from contextlib import closing
from typing import Any

import click

from hardpoint.cli.options import SettingsCommand, engine_options
from hardpoint.cli.talk import model_from, talk_options

_MAX_TOKENS = 128


@click.command(cls=SettingsCommand)
@click.argument("text", required=False)
@talk_options
@engine_options(leave_out=("seed",))
def complete(text: str | None, **given: Any) -> None:
    """Continue TEXT, or standard input, and print what follows it. Without --model the bundled model does it."""
    if text is None:
        if sys.stdin.isatty():
            raise click.UsageError("there is no text to continue; give it as an argument or on standard input")
        text = sys.stdin.read()
    with closing(model_from(given, max_tokens=_MAX_TOKENS)) as model:
        for piece in model.complete(text):
            click.echo(piece, nl=False)
        click.echo()
