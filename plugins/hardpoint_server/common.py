"""What the generating endpoints share."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from hardpoint.contract.routes import Serving
from hardpoint.outputs import RequestOutput
from hardpoint.params import SamplingParams
from hardpoint.prompts import PromptTokens
from hardpoint_server.errors import JSON, ApiError
from hardpoint_server.protocol import GenerationRequest
from hardpoint_server.replies import Envelope, Usage, usage
from hardpoint_server.streams import until_disconnect


@dataclass(slots=True)
class Tally:
    """Tokens counted over the outputs of one HTTP request."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0

    def usage(self) -> Usage:
        """Return what has been counted so far."""
        return usage(self.prompt, self.completion, self.cached)


class Job:
    """One HTTP request on its way through the engine.

    Subclasses give :meth:`answer` (the whole answer) and :meth:`events` (the same as a stream).
    """

    prefix: str
    object: str
    chunk_object: str

    def __init__(self, serving: Serving, request: GenerationRequest) -> None:
        """Raise ``ApiError`` 404 for a model that is not served here."""
        self.serving = serving
        check_model(serving, request.model)
        self.id = f"{self.prefix}-{request.request_id or uuid.uuid4().hex}"
        self.created = int(time.time())
        self.model = request.model or serving.model_names[0]
        self.tally = Tally()
        self._priority, self._salt = request.priority or 0, request.cache_salt

    async def answer(self) -> Envelope:
        """Return the whole answer."""
        raise NotImplementedError

    def events(self) -> AsyncGenerator[bytes, None]:
        """Yield the answer as server-sent events."""
        raise NotImplementedError

    def envelope(self, choices: list[Any], *, chunk: bool = False, **more: Any) -> Envelope:
        """Return an answer around ``choices``."""
        return Envelope(
            id=self.id,
            object=self.chunk_object if chunk else self.object,
            created=self.created,
            model=self.model,
            system_fingerprint=self.serving.fingerprint,
            choices=choices,
            **more,
        )

    def run(self, prompt: PromptTokens, params: SamplingParams, part: int = 0) -> AsyncGenerator[RequestOutput, None]:
        """Return the outputs of one prompt; ``part`` numbers the prompts of the request."""
        # The engine's name for it is unique even when a client repeats its own.
        return self.serving.generate(
            prompt,
            params,
            request_id=f"{self.id}-{part}-{uuid.uuid4().hex[:8]}",
            priority=self._priority,
            cache_salt=self._salt,
        )

    def recommended(self) -> dict[str, Any]:
        """Return what the model recommends for sampling, where that is not the usual default."""
        # SamplingParams leave out what is default when they are turned into plain data.
        made: dict[str, Any] = msgspec.to_builtins(self.serving.engine.default_sampling_params())
        return made

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ``ids``, special tokens included; nothing without a tokenizer."""
        tokenizer = self.serving.engine.tokenizer
        return "" if tokenizer is None else tokenizer.decode(ids, skip_special_tokens=False)

    def bytes_of(self, token: int) -> bytes | None:
        """Return the bytes that a token stands for, where the tokenizer knows them."""
        tokenizer = self.serving.engine.tokenizer
        return None if tokenizer is None else tokenizer.token_bytes(token)

    def count(self, output: RequestOutput, first: bool) -> None:
        """Add an output's new tokens to the tally."""
        if first:
            self.tally.prompt += len(output.prompt_token_ids)
            self.tally.cached += output.num_cached_tokens or 0
        self.tally.completion += sum(len(completion.token_ids) for completion in output.outputs)


def check_model(serving: Serving, model: str | None) -> None:
    """Raise ``ApiError`` 404 for a model that is not served here; a request without one gets the one there is."""
    if model is not None and model not in serving.model_names:
        raise ApiError(
            404,
            f"there is no model {model!r} here; this server offers {', '.join(serving.model_names)}",
            param="model",
            code="model_not_found",
        )


async def respond(request: Request, job: Job) -> Response:
    """Run a job to its end and return the answer; the client's leaving aborts it."""
    made = await until_disconnect(request.receive, job.answer())
    return Response(msgspec.json.encode(made), media_type=JSON)
