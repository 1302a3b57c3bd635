"""Command groups whose subcommands are imported when they are called."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from typing import Any, Final

import click

DEBUG: Final = "hardpoint.debug"


def _debug(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value:
        context.find_root().meta[DEBUG] = True


class LazyGroup(click.Group):
    """A group that knows its subcommands by name, place and one line of help.

    Args:
        commands_at: name -> (``"module:command"``, one line of help). The module is imported when the subcommand is
            called or asked for its own help.
    """

    def __init__(self, *args: Any, commands_at: Mapping[str, tuple[str, str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.places = dict(commands_at)

    def list_commands(self, context: click.Context) -> list[str]:
        """Return the subcommands in the order in which they were given."""
        return list(self.places)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """Import and return a subcommand, ``None`` for an unknown name."""
        if name not in self.places:
            return None
        module, _, attribute = self.places[name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        if not any(parameter.name == "debug" for parameter in command.params):
            command.params.append(
                click.Option(
                    ["--debug"],
                    is_flag=True,
                    expose_value=False,
                    callback=_debug,
                    help="Show where an error comes from.",
                )
            )
        return command

    def resolve_command(
        self, context: click.Context, arguments: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the subcommand that ``arguments`` begin with; an unknown one is told with the nearest name."""
        name = arguments[0]
        if name not in self.places and not name.startswith("-"):
            near = difflib.get_close_matches(name, self.places, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"commands are {', '.join(self.places)}."
            context.fail(f"No such command {name!r}; {hint}")
        return super().resolve_command(context, arguments)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of subcommands without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, help) for name, (_, help) in self.places.items()])
