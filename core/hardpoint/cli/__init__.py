"""The ``hardpoint`` command. One file a subcommand, imported when it is called."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Sequence
from typing import Any, Final

import click

from hardpoint.cli.lazy import DEBUG, LazyGroup
from hardpoint.contract.errors import HardpointError

#: Name -> (module:command, help). A subcommand's file holds a ``click.Command`` of the subcommand's name.
COMMANDS: Final = {
    "serve": ("hardpoint.cli.serve:serve", "Serve a model over HTTP."),
    "chat": ("hardpoint.cli.chat:chat", "Talk to a model: one answer, or a conversation."),
    "complete": ("hardpoint.cli.complete:complete", "Continue a text."),
    "bench": ("hardpoint.cli.bench:bench", "Measure latency, throughput, a server, or the engine's own cost."),
    "plugins": ("hardpoint.cli.plugins:plugins", "List installed plugins; --check loads and probes each."),
    "new-plugin": ("hardpoint.cli.new_plugin:new_plugin", "Write a plugin package to start from."),
    "explain": ("hardpoint.cli.explain:explain", "Show what would be chosen for a model, by whom and why."),
    "env": ("hardpoint.cli.env:env", "Show versions, machine and platforms, for bug reports."),
}
LEVELS: Final = ("debug", "info", "warning", "error")


class Refused(click.ClickException):
    """An error that says what to change; shown without a traceback."""

    exit_code = 2


class _Root(LazyGroup):
    """Turns what Hardpoint raises on purpose into a message."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except HardpointError as error:
            if context.meta.get(DEBUG):
                traceback.print_exc()
            raise Refused(str(error)) from error


def _version(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value:
        import hardpoint

        click.echo(f"hardpoint {hardpoint.__version__}")
        context.exit()


@click.group(
    cls=_Root,
    commands_at=COMMANDS,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "max_content_width": 120,
        "token_normalize_func": lambda name: name.replace("_", "-"),
    },
)
@click.option("--log-level", type=click.Choice(LEVELS), help="Log to stderr from this level on; info for serve.")
@click.option("--debug", is_flag=True, help="Show where an error comes from.")
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version.")
@click.pass_context
def cli(context: click.Context, log_level: str | None, debug: bool) -> None:
    """Run language models: serve them, talk to them, measure them."""
    if debug:
        context.meta[DEBUG] = True
    level = log_level or ("info" if context.invoked_subcommand == "serve" else "warning")
    logging.basicConfig(
        level=level.upper(), stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit.

    Exit codes: 0 done; 1 interrupted, or a fault in hardpoint with its traceback; 2 an error that the user can put
    right, as one message without a traceback (``--debug`` adds it).
    """
    cli.main(arguments, prog_name="hardpoint")
