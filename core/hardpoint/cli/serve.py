"""``hardpoint serve``: offer a model over the network."""

from __future__ import annotations

import sys
from typing import Any, cast

import click

from hardpoint.cli.options import SettingsCommand, config_from, engine_options, options_of, settings_from
from hardpoint.config.server import ServerConfig
from hardpoint.contract.routes import Server
from hardpoint.plugins import Catalogue


@click.command(cls=SettingsCommand)
@options_of(ServerConfig, "Server")
@engine_options(model_argument=True)
def serve(**given: Any) -> None:
    """Serve MODEL over HTTP with OpenAI's API; the bundled model when none is named."""
    server_config = settings_from(ServerConfig, given)
    engine_config = config_from(given)
    catalogue = Catalogue.of(engine_config.plugins)
    server = cast("Server", catalogue.create("servers", server_config.server))
    sys.exit(server.run(engine_config, server_config))
