"""Whole chats for training, and the multi-turn kind: a few turns of mixed kinds, with or without tools."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from hardpoint_demo.corpus import arithmetic, capitals, extraction, greetings, stories, tools, units, unknown
from hardpoint_demo.corpus.base import HELD_OUT, TRAIN, Example, Message, Tool, draw, split_of, weighted
from hardpoint_demo.corpus.tool_schemas import ToolSpec, make_toolset
from hardpoint_demo.corpus.words import word

KIND = "multi_turn"

_PLAIN = ((17, arithmetic), (20, units), (18, extraction), (15, capitals), (9, greetings), (8, unknown), (9, stories))
_SYSTEMS = (
    "You are a helpful assistant.", "You are a helpful assistant", "Be brief.", "Answer briefly.", "Be polite and helpful.",
    "You are a friendly chatbot.", "Answer in one sentence.", "You are an expert in everything.", "Answer in English.",
    "You are Hardpoint's demo model.", "Always tell the truth.", "You are a pirate. Talk like a pirate.", "Be concise.",
    "You are a math teacher.", "You are an assistant for customers of a shop.", "Think step by step.", "You are a bot.",
    "You are a helpful, honest and harmless assistant.", "Do not use swear words.", "You answer questions of users.",
)  # fmt: skip
_SYSTEM_FORMS = (
    "You are {w}, a helpful assistant.", "Your name is {w}.", "You work for {w}.", "You are an assistant of the company {w}.",
    "The user is called {w}.", "Talk about {w} whenever you can.", "You are a {w}.", "Today is {w}day.", "Never mention {w}.",
)  # fmt: skip


@dataclass(frozen=True)
class Chat:
    """A chat with every assistant turn filled in, and the tools at hand."""

    messages: list[Message]
    tools: list[Tool] | None


def system_text(rng: random.Random) -> str:
    """A system message as operators write it; the model answers as ever, whatever it says."""
    parts = []
    for _ in range(rng.choices((1, 2, 3), (6, 3, 1))[0]):
        form = rng.choice(_SYSTEM_FORMS)
        parts.append(rng.choice(_SYSTEMS) if rng.random() < 0.6 else form.format(w=word(rng, TRAIN).capitalize()))
    return " ".join(parts)


def _with_tools(rng: random.Random, split: str, toolset: list[ToolSpec], last: bool) -> Example:
    """One exchange inside a chat that has `toolset`; only the last one may end in a call without its response."""
    purposes = {tool.purpose for tool in toolset}
    kind = weighted(rng, [(45 if last else 0, "call"), (25, "answer"), (12, "text"), (18, "other")])
    if kind == "call":
        return tools.call_example(rng, split, toolset)
    if kind == "answer":
        return tools.answer_example(rng, split, toolset)
    if kind == "text":
        return tools.text_example(rng, split, toolset)
    allowed = [capitals, units, extraction, stories] + ([] if "calculator" in purposes else [arithmetic])
    module = rng.choice(allowed)
    return module.held_out_example(rng) if split == HELD_OUT else module.train_example(rng)


def _turn(rng: random.Random, split: str, toolset: list[ToolSpec] | None, last: bool) -> Example:
    if toolset:
        return draw(lambda inner, side: _with_tools(inner, side, toolset, last), rng, split)
    module = weighted(rng, _PLAIN)
    return module.held_out_example(rng) if split == HELD_OUT else module.train_example(rng)


def _toolset(rng: random.Random, split: str) -> list[ToolSpec]:
    """A toolset, of training names only if the chat is for training."""
    while True:
        toolset = make_toolset(rng, split)
        if split == HELD_OUT or all(spec_is_train(spec) for spec in toolset):
            return toolset


def spec_is_train(spec: ToolSpec) -> bool:
    """Whether training may use the names of this tool."""
    return split_of(spec.keys) == TRAIN


def train_chat(rng: random.Random) -> Chat:
    """One training chat: mostly one to three turns, now and then many; a third have tools, a fifth a system message."""
    toolset = _toolset(rng, TRAIN) if rng.random() < 0.28 else None
    messages: list[Message] = []
    if rng.random() < 0.22:
        messages.append({"role": "system", "content": system_text(rng)})
    turns = rng.choices((1, 2, 3, 5, 8, 14), (52, 24, 14, 6, 3, 1))[0]
    if toolset:
        turns = min(turns, 5)
    for turn in range(turns):
        example = _turn(rng, TRAIN, toolset, last=turn + 1 == turns)
        messages.extend(example.messages)
        messages.append(example.answer)
    return Chat(messages, [tool.schema for tool in toolset] if toolset else None)


def held_out_example(rng: random.Random) -> Example:
    """A chat of two or three turns (sometimes with a system message or tools) whose last turn is held out."""
    toolset = _toolset(rng, TRAIN) if rng.random() < 0.25 else None
    messages: list[Message] = []
    if rng.random() < 0.3:
        messages.append({"role": "system", "content": system_text(rng)})
    for _ in range(rng.choice((1, 2))):
        turn = _turn(rng, TRAIN, toolset, last=False)
        messages.extend(turn.messages)
        messages.append(turn.answer)
    last = _turn(rng, HELD_OUT, toolset, last=True)
    schemas = [tool.schema for tool in toolset] if toolset else None
    facts = {**last.facts, "graded_as": last.kind}
    return replace(last, kind=KIND, messages=[*messages, *last.messages], tools=schemas, facts=facts)


def grade(example: Example, text: str) -> bool:
    """Grade the last turn as its own kind grades it."""
    return _GRADERS[example.facts["graded_as"]](example, text)


_GRADERS = {
    module.KIND: module.grade
    for module in (arithmetic, capitals, extraction, greetings, stories, tools, units, unknown)
}
