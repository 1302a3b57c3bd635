"""Every error leaves the server in OpenAI's shape: ``{"error": {"message", "type", "param", "code"}}``."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from starlette.exceptions import HTTPException
from starlette.responses import Response

from hardpoint.contract.errors import ContextLengthError, EngineDeadError, HardpointError, QueueFullError, RequestError

JSON = "application/json"


class ApiError(Exception):
    """An answer other than success.

    Attributes:
        status: HTTP status.
        kind: goes out as ``type``.
        param: the offending parameter, where there is one.
        code: a word that programs can compare.
        headers: to send along.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.param = param
        self.code = code
        self.headers = dict(headers or {})

    def body(self) -> bytes:
        """Return the JSON body."""
        error = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return msgspec.json.encode({"error": error})

    def response(self) -> Response:
        """Return the response."""
        return Response(self.body(), self.status, self.headers, JSON)


def invalid(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """Return the error for a request that cannot be served as it is."""
    return ApiError(400, message, param=param, code=code)


def as_api_error(error: BaseException) -> ApiError | None:
    """Return how an exception is told to the client; ``None`` for one that nobody foresaw."""
    match error:
        case ApiError():
            return error
        case ContextLengthError():
            return invalid(str(error), error.field, "context_length_exceeded")
        case RequestError():
            return invalid(str(error), error.field)
        case QueueFullError():
            return ApiError(429, str(error), kind="rate_limit_error", code="queue_full", headers={"Retry-After": "1"})
        case EngineDeadError():
            return ApiError(503, f"the engine ended: {error}", kind="server_error", code="engine_dead")
        case HardpointError():
            return ApiError(500, str(error), kind="server_error", code="request_failed")
        case HTTPException():
            return _from_http(error)
    return None


def _from_http(error: HTTPException) -> ApiError:
    messages = {404: "there is nothing at this path", 405: "this path does not take this method"}
    codes = {404: "not_found", 405: "method_not_allowed"}
    kind = "invalid_request_error" if error.status_code < 500 else "server_error"
    return ApiError(
        error.status_code,
        messages.get(error.status_code, str(error.detail)),
        kind=kind,
        code=codes.get(error.status_code),
        headers=error.headers,
    )


def unforeseen(request_id: str) -> ApiError:
    """Return the answer to an exception that nobody foresaw; the log has the rest under the request's id."""
    return ApiError(
        500,
        f"internal error; the server's log has the cause under request id {request_id}",
        kind="server_error",
        code="internal_error",
    )
