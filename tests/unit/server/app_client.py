"""A client of an application in this process."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx


class Client:
    """Sends one request at a time to an application, without a network."""

    def __init__(self, app: Any) -> None:
        self.app = app

    def request(self, method: str, path: str, **given: Any) -> httpx.Response:
        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(app=self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                return await client.request(method, path, **given)

        return asyncio.run(send())

    def get(self, path: str, **given: Any) -> httpx.Response:
        return self.request("GET", path, **given)

    def post(self, path: str, body: dict[str, Any], **given: Any) -> httpx.Response:
        return self.request("POST", path, json=body, **given)

    def events(self, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
        """Post with ``stream`` and return the chunks; the stream must end as OpenAI's do."""
        response = self.post(path, {**body, "stream": True})
        assert response.status_code == 200, response.text
        assert response.headers["content-type"].startswith("text/event-stream")
        *lines, end, rest = response.text.split("\n\n")
        assert (end, rest) == ("data: [DONE]", "")
        return [json.loads(line.removeprefix("data: ")) for line in lines]
