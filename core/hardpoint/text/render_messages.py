"""What is said to the process that renders chat templates, and what it answers."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

#: ``syntax``: the template cannot be compiled; ``refused``: it called raise_exception; ``failed``: it raised something else;
#: ``limit``: it reached a limit.
FailureKind = Literal["syntax", "refused", "failed", "limit"]


class RenderLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What one rendering may cost.

    Attributes:
        template: characters of a template.
        output: characters of its output.
        seconds: of rendering.
        memory: bytes that the rendering process may take beyond what it has at start.
        workers: processes that render at the same time, for the model's own template and again for those of requests.
    """

    template: int = 256 * 2**10
    output: int = 32 * 2**20
    seconds: float = 5.0
    memory: int = 512 * 2**20
    workers: int = 2


class RenderJob(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A template and what it sees. Without ``messages`` it is only compiled.

    Attributes:
        template: Jinja source.
        messages: plain data; ``content`` is text or a list of text parts.
        variables: everything else that the template sees.
        continue_final: end the output where the last message's content ends.
    """

    template: str
    messages: list[dict[str, Any]] | None = None
    variables: dict[str, Any] = {}
    continue_final: bool = False


class Rendered(msgspec.Struct, frozen=True, tag=True):
    """The text; empty for a template that was only compiled."""

    text: str = ""


class RenderFailed(msgspec.Struct, frozen=True, tag=True):
    """Why there is no text."""

    kind: FailureKind
    message: str


class RendererReady(msgspec.Struct, frozen=True, tag=True):
    """The process has imported what it needs."""
