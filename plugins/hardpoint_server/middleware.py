"""What every request passes, whichever route set answers it. Plain ASGI: bodies and disconnects go through untouched."""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import uuid
from collections.abc import Callable, Iterable

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hardpoint_server.errors import ApiError, as_api_error, unforeseen
from hardpoint_server.streams import ClientGoneError

_log = logging.getLogger("hardpoint.server")
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
_HEADER = "x-request-id"
_STATE = "hardpoint_request_id"


def request_id(scope: Scope) -> str:
    """Return the id under which the log speaks of a request."""
    return str(scope[_STATE])


class Boundary:
    """Names requests and turns what nobody foresaw into a 500 without a trace in it.

    A client's own ``X-Request-Id`` is kept when it is printable and short; the answer carries the id either way.
    """

    def __init__(self, app: ASGIApp, *, count: Callable[[str, str, int], None]) -> None:
        """Take what counts answers by method, route and status."""
        self._app = app
        self._count = count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(_HEADER, "")
        name = scope[_STATE] = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        started = False

        async def send_named(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                MutableHeaders(scope=message)[_HEADER] = name
                # An unknown path is counted as none: every guess would otherwise become a time series.
                self._count(scope["method"], getattr(scope.get("route"), "path", "none"), message["status"])
            await send(message)

        try:
            await self._app(scope, receive, send_named)
        except ClientGoneError:
            _log.info("request %s: the client left before the answer", name)
        except Exception as error:
            answer = as_api_error(error)
            if answer is None:
                _log.exception("request %s failed", name)
                answer = unforeseen(name)
            if not started:
                await answer.response()(scope, receive, send_named)


class Auth:
    """Lets requests pass that carry one of the keys as a bearer token; ``public`` paths need none."""

    def __init__(self, app: ASGIApp, *, keys: Iterable[str], public: Iterable[str], root_path: str = "") -> None:
        self._app = app
        self._keys = [_digest(key.encode()) for key in keys]
        self._public = {path for each in public for path in (each, root_path.rstrip("/") + each)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or refuse it with 401."""
        if scope["type"] == "lifespan" or (scope["type"] == "http" and scope["path"] in self._public):
            await self._app(scope, receive, send)
            return
        scheme, _, token = Headers(scope=scope).get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self._known(token.strip()):
            await self._app(scope, receive, send)
            return
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        refusal = ApiError(
            401,
            "the API key is missing or wrong; send it as 'Authorization: Bearer KEY'",
            code="invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )
        await refusal.response()(scope, receive, send)

    def _known(self, token: str) -> bool:
        # Digests have one length and every key is compared: the time tells nothing about the keys.
        given = _digest(token.encode())
        return sum(hmac.compare_digest(given, key) for key in self._keys) > 0


class BodyLimit:
    """Refuses bodies larger than ``most`` bytes with 413, before they are read where the length is announced."""

    def __init__(self, app: ASGIApp, *, most: int) -> None:
        self._app = app
        self._most = most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length", "")
        if announced.isdecimal() and int(announced) > self._most:
            raise self._too_large()
        read = 0

        async def receive_counted() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self._most:
                raise self._too_large()
            return message

        await self._app(scope, receive_counted, send)

    def _too_large(self) -> HTTPException:
        return HTTPException(413, f"the body is larger than this server takes, {self._most} bytes (--max-body-size)")


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
