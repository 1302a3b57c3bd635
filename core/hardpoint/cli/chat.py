"""``hardpoint chat``: one answer, or a conversation."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import click
from rich.console import Console

from hardpoint.cli.options import SettingsCommand, engine_options
from hardpoint.cli.talk import Model, model_from, talk_options
from hardpoint.contract.errors import RequestError

_HELP = "/reset forgets the conversation, /system TEXT sets the system prompt, /exit or Ctrl-D leaves; Ctrl-C stops an answer"


@click.command(cls=SettingsCommand)
@click.argument("prompt", required=False)
@click.option("--system", "--system-prompt", help="System prompt.")
@talk_options
@engine_options(leave_out=("seed",))
def chat(prompt: str | None, system: str | None, **given: Any) -> None:
    """Answer PROMPT, or talk until /exit when there is none. Without --model the bundled model answers."""
    if prompt is None and not sys.stdin.isatty():
        prompt = sys.stdin.read().strip()
        if not prompt:
            raise click.UsageError("there is no prompt, neither as an argument nor on standard input")
    with closing(model_from(given)) as model:
        if prompt is not None:
            for piece in model.chat([*_opening(system), {"role": "user", "content": prompt}]):
                click.echo(piece, nl=False)
            click.echo()
        else:
            converse(model, system, Console())


def converse(model: Model, system: str | None, console: Console) -> None:
    """Read from the terminal and answer until the user leaves."""
    # Importing readline gives input() its line editing and history.
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401
    console.print(f"[bold]{model.name}[/bold]  {_HELP}", highlight=False)
    messages = _opening(system)
    for line in _lines(console):
        command, _, argument = line.partition(" ")
        if command == "/exit":
            return
        if command in ("/reset", "/system"):
            if command == "/system":
                system = argument.strip() or None
            messages = _opening(system)
            console.print("[dim]a new conversation[/dim]")
        elif command == "/help":
            console.print(f"[dim]{_HELP}[/dim]", highlight=False)
        else:
            messages = _answer(model, [*messages, {"role": "user", "content": line}], console)


def _answer(model: Model, messages: list[dict[str, str]], console: Console) -> list[dict[str, str]]:
    """Print the answer and return the conversation with it; a refused message is forgotten."""
    pieces: list[str] = []
    try:
        with closing(model.chat(messages)) as answer:
            for piece in answer:
                pieces.append(piece)
                console.out(piece, end="", highlight=False)
    except KeyboardInterrupt:
        console.print(" [dim](stopped)[/dim]", end="")
    except RequestError as error:
        console.print(f"[red]{error}[/red]", highlight=False)
        return messages[:-1]
    console.print()
    return [*messages, {"role": "assistant", "content": "".join(pieces)}]


def _lines(console: Console) -> Iterator[str]:
    while True:
        try:
            line = console.input("[bold green]> [/bold green]").strip()
        except EOFError:
            console.print()
            return
        except KeyboardInterrupt:
            console.print("\n[dim]/exit or Ctrl-D leaves[/dim]", highlight=False)
            continue
        if line:
            yield line


def _opening(system: str | None) -> list[dict[str, str]]:
    return [{"role": "system", "content": system}] if system else []
