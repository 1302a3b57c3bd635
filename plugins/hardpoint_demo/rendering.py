"""The chat template in Python, cut where the loss begins and ends.

Training needs to know which tokens the assistant writes, and needs it fast in worker processes, so
the template is mirrored here; a test holds the two together.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from hardpoint_demo.corpus.base import Message, Tool, answer_text

BEGIN = "<|im_start|>"
END = "<|im_end|>"
PAD = "<|endoftext|>"
SPECIAL_TOKENS = (PAD, BEGIN, END)
# Markers that a tool parser has to see, so they are tokens of their own but survive decoding.
MARKER_TOKENS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<tools>", "</tools>")

# A piece of rendered text, and whether the assistant writes it (END included).
Segment = tuple[str, bool]

_TOOLS_HEAD = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>"
)
_TOOLS_TAIL = (
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments "
    "within <tool_call></tool_call> XML tags:\n<tool_call>\n"
    '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
)


def render(messages: Sequence[Message], tools: Sequence[Tool] | None = None) -> list[Segment]:
    """The segments of a chat whose contents are plain strings; joined they are the template's text."""
    segments: list[Segment] = []
    rest = list(messages)
    system = rest.pop(0)["content"] if rest and rest[0]["role"] == "system" else None
    if tools:
        listed = "".join("\n" + json.dumps(tool, ensure_ascii=False) for tool in tools)
        head = f"{system}\n\n" if system is not None else ""
        segments.append((f"{BEGIN}system\n{head}{_TOOLS_HEAD}{listed}{_TOOLS_TAIL}{END}\n", False))
    elif system is not None:
        segments.append((f"{BEGIN}system\n{system}{END}\n", False))
    for index, message in enumerate(rest):
        role = message["role"]
        if role == "assistant":
            segments.append((f"{BEGIN}assistant\n", False))
            segments.append((answer_text(message) + END, True))
            segments.append(("\n", False))
        elif role == "tool":
            opens = index == 0 or rest[index - 1]["role"] != "tool"
            closes = index + 1 == len(rest) or rest[index + 1]["role"] != "tool"
            body = f"\n<tool_response>\n{message['content']}\n</tool_response>"
            segments.append((f"{f'{BEGIN}user' if opens else ''}{body}{f'{END}' + chr(10) if closes else ''}", False))
        else:
            segments.append((f"{BEGIN}{role}\n{message['content']}{END}\n", False))
    return segments


def prompt_text(messages: Sequence[Message], tools: Sequence[Tool] | None = None) -> str:
    """The text that the model continues: the whole chat and the opening of the assistant's turn."""
    return "".join(text for text, _ in render(messages, tools)) + f"{BEGIN}assistant\n"
