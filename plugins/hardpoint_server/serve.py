"""The HTTP server: bind, start the engine, serve, drain."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import ssl
from typing import Any, ClassVar

import uvicorn

from hardpoint.config import EngineConfig
from hardpoint.config.server import ServerConfig
from hardpoint.contract.errors import ConfigError
from hardpoint.engine.async_engine import AsyncEngine
from hardpoint.plugins import Catalogue
from hardpoint_server.app import create_app, route_names

_log = logging.getLogger("hardpoint.server")


class HttpServer:
    """Offers one engine over HTTP with uvicorn."""

    name: ClassVar[str] = "http"

    def run(self, engine: EngineConfig, server: ServerConfig) -> int:
        """Serve until SIGTERM or SIGINT, then let running requests finish for ``shutdown_timeout`` seconds.

        Returns:
            The process's exit status.

        Raises:
            ConfigError: when the address cannot be bound or a file of ``server`` cannot be read.
            PluginError: for a route set that cannot be loaded. All of this is found before the model loads.
        """
        server.keys()
        route_names(server, Catalogue.of(engine.plugins))
        bound = bind(server)
        try:
            config = uvicorn_config(server)
            with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
                return runner.run(_serve(engine, server, config, bound))
        finally:
            bound.close()
            if server.uds is not None and os.path.exists(server.uds):
                os.unlink(server.uds)


async def _serve(
    engine_config: EngineConfig, server_config: ServerConfig, config: uvicorn.Config, bound: socket.socket
) -> int:
    async with AsyncEngine(engine_config) as engine:
        config.app = create_app(engine, server_config, Catalogue.of(engine_config.plugins))
        _log.info("serving at %s", address(server_config, bound))
        # uvicorn drains on the signals and then raises them once more; that second one must not end us unclean.
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, lambda number, frame: None)
        server = uvicorn.Server(config)
        await server.serve(sockets=[bound])
    return 0 if server.started else 1


def uvicorn_config(server: ServerConfig) -> uvicorn.Config:
    """Return uvicorn's settings without an application.

    Raises:
        ConfigError: for certificates that cannot be read.
    """
    config = uvicorn.Config(
        app="",
        host=server.host,
        port=server.port,
        uds=server.uds,
        root_path=server.root_path,
        # The command line has set up logging; uvicorn's own set-up would print every line twice.
        log_config=None,
        access_log=server.access_log,
        server_header=False,
        lifespan="off",
        timeout_graceful_shutdown=max(1, round(server.shutdown_timeout)) if server.shutdown_timeout else 0,
        ssl_keyfile=server.ssl_keyfile,
        ssl_certfile=server.ssl_certfile,
        ssl_ca_certs=server.ssl_ca_certs,
        ssl_cert_reqs=ssl.CERT_REQUIRED if server.ssl_ca_certs else ssl.CERT_NONE,
    )
    if config.is_ssl:
        try:
            _check_certificates(server)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"the TLS files cannot be used: {error}") from error
    return config


def _check_certificates(server: ServerConfig) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server.ssl_certfile or "", server.ssl_keyfile)
    if server.ssl_ca_certs:
        context.load_verify_locations(server.ssl_ca_certs)


def bind(server: ServerConfig) -> socket.socket:
    """Bind the address before anything slow happens. Nobody can connect until uvicorn listens.

    Raises:
        ConfigError: when it is taken or not ours.
    """
    place: Any
    if server.uds is not None:
        family, place = socket.AF_UNIX, server.uds
    else:
        try:
            found = socket.getaddrinfo(server.host, server.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        except OSError as error:
            raise ConfigError(f"host {server.host!r} has no address: {error.strerror}") from error
        family, place = found[0][0], found[0][4]
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        if family != socket.AF_UNIX:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(place)
    except OSError as error:
        bound.close()
        where = server.uds or f"{server.host} port {server.port}"
        raise ConfigError(
            f"cannot bind {where}: {error.strerror}; choose another with --port, --host or --uds"
        ) from error
    return bound


def address(server: ServerConfig, bound: socket.socket) -> str:
    """Return the address as a user types it."""
    if server.uds is not None:
        return f"unix:{server.uds}"
    host = f"[{server.host}]" if ":" in server.host else server.host
    return f"http{'s' if server.ssl_keyfile else ''}://{host}:{bound.getsockname()[1]}"
