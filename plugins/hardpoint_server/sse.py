"""Server-sent events: bytes are made once and written once per engine output."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from hardpoint_server.errors import as_api_error, unforeseen
from hardpoint_server.replies import Envelope, Usage
from hardpoint_server.streams import ClientGoneError, until_disconnect

DONE = b"data: [DONE]\n\n"
_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    # nginx would otherwise collect the stream before passing it on.
    (b"x-accel-buffering", b"no"),
]
_encoder = msgspec.json.Encoder()
_log = logging.getLogger("hardpoint.server")


class ChunkWriter:
    """Makes the chunks of one stream; what they share is encoded once."""

    def __init__(self, envelope: Envelope) -> None:
        """Take the shared fields from ``envelope``, whose choices and usage are ignored."""
        shared = {name: getattr(envelope, name) for name in ("id", "object", "created", "model", "system_fingerprint")}
        self._head = b"data: " + _encoder.encode(shared)[:-1] + b',"choices":'

    def chunk(self, choices: list[Any], usage: Usage | None = None, **more: Any) -> bytes:
        """Return one event with ``choices``, and ``usage`` and ``more`` where they are given."""
        parts = [self._head, _encoder.encode(choices)]
        for name, value in {"usage": usage, **more}.items():
            if value is not None:
                parts += (b',"', name.encode(), b'":', _encoder.encode(value))
        parts.append(b"}\n\n")
        return b"".join(parts)


class EventStream(Response):
    """Sends events as they come.

    The first event is awaited before the status goes out: a request that is refused gets its own status, not a 200. An
    error after that is sent as an event in the error shape and ends the stream without ``[DONE]``. When the client goes,
    the events are closed, which aborts the request.
    """

    def __init__(self, events: AsyncGenerator[bytes, None], request_id: str) -> None:
        self._events = events
        self._request_id = request_id
        self.background = None
        self.status_code = 200

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the stream to its end, or to the client's."""
        try:
            await until_disconnect(receive, self._send(send))
        except ClientGoneError:
            return

    async def _send(self, send: Send) -> None:
        started = False
        async with aclosing(self._events) as events:
            try:
                async for event in events:
                    if not started:
                        await send({"type": "http.response.start", "status": 200, "headers": list(_HEADERS)})
                        started = True
                    await send({"type": "http.response.body", "body": event, "more_body": True})
            except Exception as error:
                if not started:
                    raise
                answer = as_api_error(error)
                if answer is None:
                    _log.exception("request %s failed while streaming", self._request_id)
                    answer = unforeseen(self._request_id)
                await send(
                    {"type": "http.response.body", "body": b"data: " + answer.body() + b"\n\n", "more_body": True}
                )
            await send({"type": "http.response.body", "body": b"", "more_body": False})
