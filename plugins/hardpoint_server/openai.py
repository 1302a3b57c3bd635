"""OpenAI's surface: models, completions, chat completions."""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from hardpoint.contract.routes import Serving
from hardpoint_server.chat import ChatJob
from hardpoint_server.common import Job, respond
from hardpoint_server.completions import CompletionJob
from hardpoint_server.middleware import request_id
from hardpoint_server.models import models_router
from hardpoint_server.protocol import ChatCompletionRequest, CompletionRequest, GenerationRequest, parse
from hardpoint_server.sse import EventStream


class OpenAIRoutes:
    """Endpoints that OpenAI's clients call."""

    name: ClassVar[str] = "openai"

    def router(self, serving: Serving) -> APIRouter:
        """Return ``/v1/models``, ``/v1/completions`` and ``/v1/chat/completions``."""
        router = APIRouter(tags=["openai"])
        router.include_router(models_router(serving))

        @router.post("/v1/completions", openapi_extra=_schema(CompletionRequest))
        async def completions(request: Request) -> Response:
            body = parse(await request.body(), CompletionRequest)
            return await _run(request, CompletionJob(serving, body), body)

        @router.post("/v1/chat/completions", openapi_extra=_schema(ChatCompletionRequest))
        async def chat_completions(request: Request) -> Response:
            body = parse(await request.body(), ChatCompletionRequest)
            return await _run(request, ChatJob(serving, body), body)

        return router


async def _run(request: Request, job: Job, body: GenerationRequest) -> Response:
    if body.stream:
        return EventStream(job.events(), request_id(request.scope))
    return await respond(request, job)


def _schema(kind: type) -> dict[str, Any]:
    """Return what ``/openapi.json`` says about a body, its definitions inlined."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": _inlined(kind)}}}}


def _inlined(kind: type) -> dict[str, Any]:
    (schema,), components = msgspec.json.schema_components([kind], ref_template="{name}")

    def resolve(node: Any) -> Any:
        if isinstance(node, dict):
            if "$ref" in node:
                return resolve(components[node["$ref"]])
            return {name: resolve(value) for name, value in node.items()}
        return [resolve(value) for value in node] if isinstance(node, list) else node

    made: dict[str, Any] = resolve(schema)
    return made
