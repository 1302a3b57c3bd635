"""Chat templates: from a conversation to the text that the model was trained on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from hardpoint.contract.errors import ConfigError, RequestError
from hardpoint.text.messages import plain, plain_messages
from hardpoint.text.render_messages import Rendered, RenderFailed, RenderJob, RenderLimits
from hardpoint.text.render_pool import RenderPool

_RESERVED = frozenset(
    {"messages", "tools", "documents", "add_generation_prompt", "continue_final_message", "chat_template", "tokenize"}
)


class ChatRenderer:
    """Renders conversations in processes of their own, under limits. Safe to call from any thread.

    The model's template and those that requests bring pass through the same limits but through different processes, so
    that a hostile request cannot make others wait.
    """

    def __init__(
        self, templates: Mapping[str, str], special_tokens: Mapping[str, str], limits: RenderLimits | None = None
    ) -> None:
        """Make a renderer; starts no process yet.

        Args:
            templates: the model's, by name; ``"default"`` and perhaps ``"tool_use"``.
            special_tokens: named tokens that templates see, e.g. ``{"bos_token": "<s>"}``.
            limits: what one rendering may cost.
        """
        self._templates = dict(templates)
        self._special_tokens = dict(special_tokens)
        self._limits = limits or RenderLimits()
        self._own = RenderPool(self._limits)
        self._foreign = RenderPool(self._limits)

    @property
    def templates(self) -> Mapping[str, str]:
        """The model's templates by name; empty for a model without one."""
        return self._templates

    @property
    def workers(self) -> int:
        """How many of the model's own renderings run at the same time, and how many of foreign templates beside them."""
        return self._limits.workers

    def is_own(self, chat_template: str | None) -> bool:
        """Return whether ``chat_template`` stands for one of the model's own."""
        return chat_template is None or chat_template in self._templates

    def check(self) -> None:
        """Compile the model's templates.

        Raises:
            ConfigError: when one is too long or is no Jinja.
        """
        for template in self._templates.values():
            self._run(RenderJob(template=template), own=True)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        chat_template: str | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> str:
        """Return the conversation as text.

        Args:
            messages: OpenAI-style messages; content is text or a list of text parts.
            tools: OpenAI-style tools.
            documents: for templates that read them.
            chat_template: a template or the name of one of the model's, instead of the default.
            add_generation_prompt: end with the start of an answer.
            continue_final_message: end inside the last message, so that the model goes on with it.
            chat_template_kwargs: further variables, e.g. ``{"enable_thinking": False}``.

        Raises:
            RequestError: when there is no template, the conversation does not suit it, or a limit is reached.
            ConfigError: when the model's own template is no Jinja.
        """
        if add_generation_prompt and continue_final_message:
            raise RequestError(
                "add_generation_prompt and continue_final_message are both set; the last message can be continued or "
                "answered, not both",
                field="continue_final_message",
            )
        conversation = plain_messages(messages)
        if continue_final_message and not conversation[-1].get("content"):
            raise RequestError("the last message has no content to continue", field="continue_final_message")
        template, own = self._choose(chat_template, bool(tools))
        job = RenderJob(
            template=template,
            messages=conversation,
            variables={
                **self._special_tokens,
                **_variables(chat_template_kwargs),
                "tools": plain(list(tools), "tools") if tools else None,
                "documents": plain(list(documents), "documents") if documents else None,
                "add_generation_prompt": add_generation_prompt,
            },
            continue_final=continue_final_message,
        )
        return self._run(job, own=own)

    def _choose(self, given: str | None, tools: bool) -> tuple[str, bool]:
        if given is not None and not self.is_own(given):
            return given, False
        name = given or ("tool_use" if tools and "tool_use" in self._templates else "default")
        if name not in self._templates:
            known = f" It has templates named {', '.join(self._templates)}." if self._templates else ""
            raise RequestError(
                f"the model has no chat template.{known} Give one with --chat-template FILE, or send a plain prompt",
                field="messages",
            )
        return self._templates[name], True

    def _run(self, job: RenderJob, *, own: bool) -> str:
        if len(job.template) > self._limits.template:
            message = (
                f"the chat template has {len(job.template)} characters; at most {self._limits.template} are allowed"
            )
            raise ConfigError(message) if own else RequestError(message, field="chat_template")
        answer = (self._own if own else self._foreign).run(job)
        if isinstance(answer, Rendered):
            return answer.text
        raise self._error(answer, own)

    def _error(self, failure: RenderFailed, own: bool) -> Exception:
        match failure.kind:
            case "syntax":
                message = f"the chat template is not valid Jinja: {failure.message}"
                return ConfigError(message) if own else RequestError(message, field="chat_template")
            case "refused":
                return RequestError(f"the chat template refuses this conversation: {failure.message}", field="messages")
            case "limit":
                return RequestError(
                    f"the chat template was stopped: {failure.message}; shorten the conversation or mend the template",
                    field="messages" if own else "chat_template",
                )
            case _:
                return RequestError(
                    f"the chat template failed on this conversation: {failure.message}",
                    field="messages" if own else "chat_template",
                )

    def close(self) -> None:
        """End the rendering processes."""
        self._own.close()
        self._foreign.close()


def _variables(given: Mapping[str, Any] | None) -> dict[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise RequestError(f"chat_template_kwargs is {json.dumps(given, default=str)}; it must be a JSON object")
    if taken := sorted(_RESERVED & set(given)):
        raise RequestError(
            f"chat_template_kwargs sets {', '.join(taken)}; send it as a parameter of its own",
            field="chat_template_kwargs",
        )
    variables: dict[str, Any] = plain(dict(given), "chat_template_kwargs")
    return variables
