"""``GET /health``: whether the engine lives. The only endpoint that never asks for a key."""

from __future__ import annotations

from typing import ClassVar

import msgspec
from fastapi import APIRouter
from starlette.responses import Response

from hardpoint.contract.errors import EngineDeadError
from hardpoint.contract.routes import Serving
from hardpoint_server.errors import JSON

PATH = "/health"


class HealthRoutes:
    """The liveness check of load balancers and orchestrators."""

    name: ClassVar[str] = "health"

    def router(self, serving: Serving) -> APIRouter:
        """Return ``/health``: 200 while the engine lives, 503 with the cause after that."""
        router = APIRouter(tags=["health"])

        @router.get(PATH)
        async def health() -> Response:
            try:
                await serving.engine.check_health()
            except EngineDeadError as error:
                body = {"status": "dead", "cause": str(error)}
                return Response(msgspec.json.encode(body), 503, media_type=JSON)
            return Response(msgspec.json.encode({"status": "ok"}), media_type=JSON)

        return router
