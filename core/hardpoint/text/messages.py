"""OpenAI-style messages as plain data that a chat template may see."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from hardpoint.contract.errors import RequestError

_MAX_DEPTH = 64
_TEXT_PARTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
_REASONING = ("reasoning_content", "reasoning", "thinking")


def plain(value: Any, path: str, depth: int = 0) -> Any:
    """Return JSON data rebuilt from its plain types; templates must not reach methods of anything richer.

    Raises:
        RequestError: for anything that is not JSON data; ``path`` says where.
    """
    if value is None or type(value) in (str, bool, int, float):
        return value
    if depth == _MAX_DEPTH:
        raise RequestError(f"{path} is nested more than {_MAX_DEPTH} levels deep", field=path.partition("[")[0])
    if isinstance(value, Mapping):
        return {str(key): plain(item, f"{path}[{key!r}]", depth + 1) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return [plain(item, f"{path}[{index}]", depth + 1) for index, item in enumerate(value)]
    if isinstance(value, str):
        return str.__str__(value)
    raise RequestError(f"{path} is a {type(value).__name__}; it must be JSON data", field=path.partition("[")[0])


def plain_messages(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a conversation as templates expect it.

    Content parts are reduced to text parts; the arguments of tool calls become objects; reasoning is offered under all the
    names that templates read.

    Raises:
        RequestError: for an empty conversation or a malformed message, with its position.
    """
    if isinstance(messages, (str, Mapping)) or not isinstance(messages, Sequence):
        raise RequestError(f"messages is a {type(messages).__name__}; it must be a list of messages", field="messages")
    if not messages:
        raise RequestError("messages is empty; a conversation has at least one message", field="messages")
    return [_message(message, f"messages[{index}]") for index, message in enumerate(messages)]


def _message(given: Any, path: str) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        raise RequestError(f"{path} is a {type(given).__name__}; it must be an object", field="messages")
    message: dict[str, Any] = plain(given, path)
    role = message.get("role")
    if not isinstance(role, str) or not role:
        raise RequestError(f"{path} has the role {role!r}; it must be text such as 'user'", field="messages")
    message["content"] = _content(message.get("content"), path)
    if message.get("tool_calls") is not None:
        message["tool_calls"] = _tool_calls(message["tool_calls"], path)
    else:
        message.pop("tool_calls", None)
        # Beside tool calls, templates tell "no content" from an empty one; elsewhere they print what they find.
        message["content"] = message["content"] or ""
    reasoning = next((message[name] for name in _REASONING if message.get(name) is not None), None)
    if reasoning is not None:
        message.update(dict.fromkeys(_REASONING, reasoning))
    return message


def _content(content: Any, path: str) -> str | list[dict[str, str]] | None:
    if content is None or isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise RequestError(f"{path}.content is {content!r}; it must be text or a list of parts", field="messages")
    return [_part(part, f"{path}.content[{index}]") for index, part in enumerate(content)]


def _part(part: Any, path: str) -> dict[str, str]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    if not isinstance(part, dict):
        raise RequestError(f"{path} is {part!r}; it must be text or an object", field="messages")
    kind = part.get("type", "text")
    key = _TEXT_PARTS.get(kind) if isinstance(kind, str) else None
    if key is None:
        raise RequestError(f"{path} has the type {kind!r}; this model reads text parts only", field="messages")
    text = part.get(key)
    if not isinstance(text, str):
        raise RequestError(f"{path}.{key} is {text!r}; it must be text", field="messages")
    return {"type": "text", "text": text}


def _tool_calls(calls: Any, path: str) -> list[dict[str, Any]]:
    if not isinstance(calls, list):
        raise RequestError(f"{path}.tool_calls is {calls!r}; it must be a list", field="messages")
    for index, call in enumerate(calls):
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise RequestError(f"{path}.tool_calls[{index}] names no function", field="messages")
        arguments = function.get("arguments")
        if isinstance(arguments, str):
            function["arguments"] = _arguments(arguments, f"{path}.tool_calls[{index}].function.arguments")
        elif arguments is None:
            function["arguments"] = {}
    return list(calls)


def _arguments(text: str, path: str) -> Any:
    if not text.strip():
        return {}
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{path} is not JSON: {error}", field="messages") from error
