"""One way to talk to a model, whether it runs in this process or behind a URL: text comes in pieces."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from contextlib import closing
from typing import Any, Protocol, TypeVar

import click

from hardpoint.cli.options import config_from
from hardpoint.cli.remote import Remote
from hardpoint.engine.async_engine import AsyncEngine
from hardpoint.outputs import RequestOutput
from hardpoint.prompts import PromptTokens

F = TypeVar("F", bound=Callable[..., Any])
Messages = Sequence[Mapping[str, Any]]
Pieces = Generator[str, None, None]

_FIELDS = ("max_tokens", "temperature", "top_p", "top_k", "seed")


def talk_options(function: F) -> F:
    """Add the options of commands that generate text, here or elsewhere."""
    for option in (
        click.option("--seed", "request_seed", type=int, help="Reproduce an answer."),
        click.option("--top-k", type=int, help="Sample from so many most likely tokens."),
        click.option("--top-p", type=float, help="Sample from the most likely tokens of this probability mass."),
        click.option("--temperature", type=float, help="0 always takes the most likely token."),
        click.option("--max-tokens", type=click.IntRange(min=1), help="Longest answer in tokens."),
        click.option("--api-key", help="Bearer token for --url."),
        click.option("--url", help="Talk to a running server, ours or another with OpenAI's API."),
    ):
        function = option(function)
    return function


class Model(Protocol):
    """A model that answers in pieces of text. Closing the generator ends the answer."""

    name: str

    def chat(self, messages: Messages) -> Pieces: ...
    def complete(self, prompt: str) -> Pieces: ...
    def close(self) -> None: ...


def model_from(given: Mapping[str, Any], **defaults: Any) -> Model:
    """Return the model that a command's arguments name; ``defaults`` are sampling fields."""
    fields = {name: given["request_seed" if name == "seed" else name] for name in _FIELDS}
    sampling = defaults | {name: value for name, value in fields.items() if value is not None}
    if given["url"]:
        model = given["model"] if _spoken("model") else None
        return RemoteModel(Remote(given["url"], given["api_key"], model), sampling)
    return LocalModel(given, sampling)


def _spoken(name: str) -> bool:
    context = click.get_current_context()
    return context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE


class LocalModel:
    """A model in this process."""

    def __init__(self, given: Mapping[str, Any], sampling: Mapping[str, Any]) -> None:
        """Load the model that the engine settings in ``given`` name."""
        self._runner = asyncio.Runner()
        self._engine = AsyncEngine(config_from(given), in_process=True)
        self._runner.run(self._engine.start())
        self._params = self._engine.default_sampling_params().replace(
            **{"max_tokens": None, **sampling}, output_kind="delta"
        )
        self.name = self._engine.info.model

    def chat(self, messages: Messages) -> Pieces:
        """Yield the answer to a conversation."""
        yield from self._pieces(self._runner.run(self._engine.render_chat(messages)))

    def complete(self, prompt: str) -> Pieces:
        """Yield the continuation of a text."""
        yield from self._pieces(prompt)

    def close(self) -> None:
        """End the engine."""
        self._runner.run(self._engine.shutdown())
        self._runner.close()

    def _pieces(self, prompt: str | PromptTokens) -> Pieces:
        outputs = self._engine.generate(prompt, self._params)
        try:
            while (output := self._runner.run(_next(outputs))) is not None:
                yield output.outputs[0].text
        finally:
            self._runner.run(outputs.aclose())


async def _next(outputs: AsyncGenerator[RequestOutput, None]) -> RequestOutput | None:
    return await anext(outputs, None)


class RemoteModel:
    """A model behind a URL."""

    def __init__(self, remote: Remote, sampling: Mapping[str, Any]) -> None:
        """Ask ``remote`` with these sampling fields."""
        self._remote = remote
        self._sampling = dict(sampling)
        self.name = remote.model

    def chat(self, messages: Messages) -> Pieces:
        """Yield the answer to a conversation."""
        body = {"messages": list(messages), **self._sampling}
        with closing(self._remote.stream("/v1/chat/completions", body)) as chunks:
            for chunk in chunks:
                for choice in chunk["choices"]:
                    yield choice["delta"].get("content") or ""

    def complete(self, prompt: str) -> Pieces:
        """Yield the continuation of a text."""
        with closing(self._remote.stream("/v1/completions", {"prompt": prompt, **self._sampling})) as chunks:
            for chunk in chunks:
                for choice in chunk["choices"]:
                    yield choice["text"]

    def close(self) -> None:
        """Close the connection."""
        self._remote.close()
