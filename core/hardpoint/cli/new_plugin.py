"""``hardpoint new-plugin``: writes a package to start from."""

from __future__ import annotations

from pathlib import Path

import click

from hardpoint.scaffold import KINDS, Scaffold


@click.command(name="new-plugin")
@click.argument("kind", type=click.Choice(tuple(KINDS)))
@click.argument("name")
@click.option("--folder", type=click.Path(path_type=Path, file_okay=False), help="Where; hardpoint-NAME by default.")
def new_plugin(kind: str, name: str, folder: Path | None) -> None:
    """Write a plugin package of KIND called NAME, with tests that pass as they are.

    Install it with pip install -e FOLDER, run its tests with pytest FOLDER, then make it yours.
    """
    scaffold = Scaffold(kind=kind, name=name)
    where = folder or Path(scaffold.distribution)
    for path in scaffold.write(where):
        click.echo(f"wrote {path}")
    click.echo(f"next: pip install -e {where} && pytest {where}")
