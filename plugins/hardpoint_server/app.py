"""The application: route sets from the catalogue, and what every request passes on its way to them."""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncGenerator
from typing import Any

import msgspec
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from prometheus_client import CollectorRegistry
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response

import hardpoint
from hardpoint.config.server import ServerConfig
from hardpoint.contract.errors import PluginError
from hardpoint.contract.routes import RouteSet
from hardpoint.engine.async_engine import AsyncEngine
from hardpoint.outputs import RequestOutput
from hardpoint.params import SamplingParams
from hardpoint.plugins import Catalogue
from hardpoint_server.errors import as_api_error, invalid
from hardpoint_server.health import PATH as HEALTH_PATH
from hardpoint_server.metrics import EngineCollector, RequestMetrics
from hardpoint_server.middleware import Auth, BodyLimit, Boundary


class EngineServing:
    """The :class:`hardpoint.contract.routes.Serving` of one engine."""

    def __init__(self, engine: AsyncEngine, config: ServerConfig) -> None:
        """Offer ``engine`` under the names that its configuration gives, or under the model's own."""
        self.engine = engine
        self.config = config
        named = tuple(engine.info.config["model"]["served_model_name"])
        self.model_names = named or (engine.info.model,)
        self.fingerprint = fingerprint(engine.info.config)
        self.started = int(time.time())
        self.registry = CollectorRegistry()
        self.registry.register(EngineCollector(engine, self.model_names[0]))
        self.metrics = RequestMetrics(self.registry, self.model_names[0])

    def generate(
        self,
        prompt: Any,
        params: SamplingParams,
        *,
        request_id: str,
        priority: int = 0,
        cache_salt: str | None = None,
    ) -> AsyncGenerator[RequestOutput, None]:
        """Run one request, measured."""
        outputs = self.engine.generate(prompt, params, request_id=request_id, priority=priority, cache_salt=cache_salt)
        return self.metrics.watch(outputs, params)


def create_app(engine: AsyncEngine, config: ServerConfig, catalogue: Catalogue) -> FastAPI:
    """Return the application that offers ``engine``.

    Args:
        engine: a started one.
        config: the server's settings.
        catalogue: where route sets come from.

    Raises:
        PluginError: for a route set that is unknown or broken, or two that claim one path.
        ConfigError: when the key file cannot be read.
    """
    serving = EngineServing(engine, config)
    # The interactive pages would load scripts from a third party.
    app = FastAPI(title="Hardpoint", version=hardpoint.__version__, docs_url=None, redoc_url=None)
    owners: dict[tuple[str, str], str] = {}
    for name in route_names(config, catalogue):
        _mount(app, catalogue.create("routes", name), name, serving, owners)
    app.add_exception_handler(HTTPException, _answer)
    app.add_exception_handler(RequestValidationError, _answer_validation)
    # Added last runs first.
    app.add_middleware(BodyLimit, most=config.max_body_size)
    if keys := config.keys():
        app.add_middleware(Auth, keys=keys, public=(HEALTH_PATH,), root_path=config.root_path)
    app.add_middleware(Boundary, count=serving.metrics.count_answer)
    if config.allowed_origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=list(config.allowed_origins), allow_methods=["*"], allow_headers=["*"]
        )
    return app


def route_names(config: ServerConfig, catalogue: Catalogue) -> tuple[str, ...]:
    """Return the route sets to offer, all of which exist.

    Raises:
        PluginError: for one that does not, or may not be loaded.
    """
    names = config.routes or catalogue.names("routes")
    for name in names:
        catalogue.load("routes", name)
    return names


def fingerprint(config: dict[str, Any]) -> str:
    """Return a short hash of the adjusted configuration and this version."""
    facts = [hardpoint.__version__, config]
    return "hp_" + hashlib.sha256(msgspec.json.encode(facts, order="deterministic")).hexdigest()[:16]


def _mount(
    app: FastAPI, routes: RouteSet, name: str, serving: EngineServing, owners: dict[tuple[str, str], str]
) -> None:
    router = routes.router(serving)
    for route in router.routes:
        path = getattr(route, "path", "")
        for method in getattr(route, "methods", None) or ("",):
            owner = owners.setdefault((method, path), name)
            if owner != name:
                raise PluginError(
                    f"route sets {owner!r} and {name!r} both offer {method} {path}; leave one of them out with --routes"
                )
    app.include_router(router)


async def _answer(request: Request, error: Exception) -> Response:
    answer = as_api_error(error)
    if answer is None:
        raise error
    return answer.response()


async def _answer_validation(request: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError):
        raise error
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part not in ("body", "query", "path"))
    return invalid(f"{where or 'the request'} is wrong: {first['msg']}", where or None).response()
