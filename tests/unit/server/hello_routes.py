"""A route set as another distribution would bring it: it imports the contract and nothing of our server."""

from __future__ import annotations

from typing import ClassVar

from fastapi import APIRouter

from hardpoint.contract.descriptor import Descriptor
from hardpoint.contract.routes import Serving
from hardpoint.params import SamplingParams

DESCRIPTOR = Descriptor(
    kind="routes", name="hello", contract=(1, 0), implementation="hello_routes:HelloRoutes", summary="POST /hello"
)

CLASH = Descriptor(kind="routes", name="clash", contract=(1, 0), implementation="hello_routes:ClashingRoutes")


class HelloRoutes:
    """Greets whoever is named."""

    name: ClassVar[str] = "hello"

    def router(self, serving: Serving) -> APIRouter:
        """Return ``/hello``."""
        router = APIRouter()

        @router.post("/hello")
        async def hello(name: str, words: int = 3) -> dict[str, str]:
            params = SamplingParams(max_tokens=words, output_kind="final_only")
            prompt = await serving.engine.tokenize(f"Hello, I am {name}.")
            async for output in serving.generate(prompt, params, request_id=f"hello-{name}"):
                text = output.outputs[0].text
            return {"text": text}

        return router


class ClashingRoutes:
    """Claims a path that is ours."""

    name: ClassVar[str] = "clash"

    def router(self, serving: Serving) -> APIRouter:
        """Return ``/health``."""
        router = APIRouter()

        @router.get("/health")
        async def health() -> dict[str, str]:
            return {}

        return router
