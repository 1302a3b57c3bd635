"""Chat messages as clients send them, checked and brought into the form that chat templates expect."""

from __future__ import annotations

from typing import Any

import msgspec

from hardpoint_server.errors import invalid


def for_template(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the messages with text parts joined and tool arguments parsed, as templates read them.

    Raises:
        ApiError: naming the message that is wrong.
    """
    if not messages:
        raise invalid("messages is empty; send at least one", "messages")
    return [_message(index, message) for index, message in enumerate(messages)]


def _message(index: int, message: dict[str, Any]) -> dict[str, Any]:
    role = message.get("role")
    if not isinstance(role, str) or not role:
        raise invalid(f"messages[{index}] has no role", "messages")
    made = {name: value for name, value in message.items() if value is not None}
    made["content"] = _content(index, message.get("content"))
    calls = made.pop("tool_calls", None)
    if calls:
        made["tool_calls"] = _tool_calls(index, calls)
    return made


def _content(index: int, content: Any) -> str | None:
    if content is None or isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise invalid(f"messages[{index}].content is neither text nor a list of parts", "messages")
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else type(part).__name__
        if isinstance(part, str):
            texts.append(part)
        elif kind in ("text", "input_text", "output_text", "refusal"):
            text = part.get("refusal" if kind == "refusal" else "text")
            if not isinstance(text, str):
                raise invalid(f"messages[{index}].content has a {kind} part without text", "messages")
            texts.append(text)
        else:
            raise invalid(
                f"messages[{index}].content has a part of type {kind!r}; this model takes text only",
                "messages",
                "unsupported_content",
            )
    return "\n".join(texts)


def _tool_calls(index: int, calls: Any) -> list[dict[str, Any]]:
    if not isinstance(calls, list):
        raise invalid(f"messages[{index}].tool_calls is not a list", "messages")
    made = []
    for call in calls:
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise invalid(f"messages[{index}].tool_calls has a call without function.name", "messages")
        made.append({**call, "function": {**function, "arguments": _arguments(index, function.get("arguments"))}})
    return made


def _arguments(index: int, arguments: Any) -> Any:
    # Clients send the arguments as JSON text; templates dump an object themselves, and would quote text twice.
    if not isinstance(arguments, str):
        return {} if arguments is None else arguments
    try:
        return msgspec.json.decode(arguments) if arguments.strip() else {}
    except msgspec.DecodeError as error:
        raise invalid(f"messages[{index}].tool_calls has arguments that are not JSON: {error}", "messages") from None
