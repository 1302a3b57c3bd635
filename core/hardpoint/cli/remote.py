"""Talking to a running server with OpenAI's API."""

from __future__ import annotations

import json
from collections.abc import Generator
from typing import Any

import httpx

from hardpoint.contract.errors import HardpointError


class ServerError(HardpointError, RuntimeError):
    """A server refused, failed, or could not be reached."""


class Remote:
    """One server, reached over HTTP.

    Args:
        url: of the server, with or without ``/v1``.
        key: API key, if it asks for one.
        model: name of the model; by default the first one that it offers.
    """

    def __init__(self, url: str, key: str | None = None, model: str | None = None) -> None:
        base = url.rstrip("/").removesuffix("/v1")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        # The first token may take as long as the queue is; only connecting is bounded.
        timeout = httpx.Timeout(None, connect=10.0)
        self._client = httpx.Client(base_url=base, headers=headers, timeout=timeout)
        self._url = url
        self.card = self._card(model)
        self.model = str(self.card["id"])

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def stream(self, path: str, body: dict[str, Any]) -> Generator[dict[str, Any], None, None]:
        """Post ``body`` and yield the chunks of the answer; closing the generator aborts it.

        Raises:
            ServerError: with the server's own message.
        """
        body = {"model": self.model, "stream": True, **body}
        try:
            with self._client.stream("POST", path, json=body) as response:
                if response.status_code != 200:
                    response.read()
                    raise ServerError(message_of(response.status_code, response.content))
                for line in response.iter_lines():
                    if line.startswith("data: ") and line != "data: [DONE]":
                        chunk = json.loads(line[6:])
                        if "error" in chunk:
                            raise ServerError(f"the server ended the answer: {chunk['error'].get('message')}")
                        yield chunk
        except httpx.HTTPError as error:
            raise ServerError(f"the server at {self._url} cannot be reached: {error}") from error

    def _card(self, model: str | None) -> dict[str, Any]:
        try:
            response = self._client.get("/v1/models")
        except httpx.HTTPError as error:
            raise ServerError(f"no server answers at {self._url}: {error}; start one with `hardpoint serve`") from error
        if response.status_code != 200:
            raise ServerError(message_of(response.status_code, response.content))
        cards = response.json()["data"]
        chosen: dict[str, Any] | None = next((card for card in cards if model in (None, card["id"])), None)
        if chosen is None:
            raise ServerError(f"{self._url} has no model {model!r}; it has {', '.join(card['id'] for card in cards)}")
        return chosen


def message_of(status: int, body: bytes) -> str:
    """Return what a refusal says."""
    try:
        found = json.loads(body)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        found = body[:200].decode(errors="replace")
    return f"the server answered {status}: {found}"
