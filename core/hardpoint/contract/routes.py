"""Servers and route sets: how an engine is offered over the network.

A server (kind ``servers``) owns the transport. A route set (kind ``routes``) adds endpoints to the HTTP server and reaches
the engine only through the :class:`Serving` that it is given, so that limits, metrics and aborts hold for every surface.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from fastapi import APIRouter
    from prometheus_client import CollectorRegistry

    from hardpoint.config import EngineConfig
    from hardpoint.config.server import ServerConfig
    from hardpoint.engine.async_engine import AsyncEngine
    from hardpoint.outputs import RequestOutput
    from hardpoint.params import SamplingParams


class Serving(Protocol):
    """What a route set may use.

    Attributes:
        engine: the :class:`hardpoint.engine.async_engine.AsyncEngine` behind the server.
        config: the server's settings.
        model_names: names under which the model is offered; the first one is answered.
        fingerprint: changes when what is being served changes; goes out as ``system_fingerprint``.
        started: seconds since the epoch when the server came up.
        registry: the ``prometheus_client`` registry behind ``/metrics``; a route set may add its own families.
    """

    engine: AsyncEngine
    config: ServerConfig
    model_names: tuple[str, ...]
    fingerprint: str
    started: int
    registry: CollectorRegistry

    def generate(
        self,
        prompt: Any,
        params: SamplingParams,
        *,
        request_id: str,
        priority: int = 0,
        cache_salt: str | None = None,
    ) -> AsyncGenerator[RequestOutput, None]:
        """Run one request, counted in the metrics; closing the generator aborts it.

        Raises:
            RequestError: for an invalid request.
            QueueFullError: when too many requests wait.
            EngineDeadError: when the engine ended.
        """


@runtime_checkable
class RouteSet(Protocol):
    """Endpoints of one surface. Made once per server, without arguments."""

    name: ClassVar[str]

    def router(self, serving: Serving) -> APIRouter:
        """Return the endpoints. Two sets that claim one method and path end the start with an error naming both."""


@runtime_checkable
class Server(Protocol):
    """Offers one engine until it is told to stop."""

    name: ClassVar[str]

    def run(self, engine: EngineConfig, server: ServerConfig) -> int:
        """Start the engine, serve until SIGTERM or SIGINT, drain, and return the process's exit status."""
