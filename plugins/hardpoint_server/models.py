"""``GET /v1/models`` and ``GET /v1/models/{name}``."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from hardpoint.contract.routes import Serving
from hardpoint_server.common import check_model


def models_router(serving: Serving) -> APIRouter:
    """Return the endpoints that list what is served."""
    router = APIRouter()

    @router.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [_card(serving, name) for name in serving.model_names]}

    @router.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        check_model(serving, name)
        return _card(serving, name)

    return router


def _card(serving: Serving, name: str) -> dict[str, Any]:
    info = serving.engine.info
    return {
        "id": name,
        "object": "model",
        "created": serving.started,
        "owned_by": "hardpoint",
        "root": info.model,
        "parent": None,
        "max_model_len": info.max_model_len,
        "vocab_size": info.vocab_size,
    }
