"""Tool calls in Hermes form, answers from tool responses, and text answers although tools are at hand."""

from __future__ import annotations

import json
import random
import re

from hardpoint_demo.corpus import greetings, unknown
from hardpoint_demo.corpus.base import (
    HELD_OUT,
    TRAIN,
    Example,
    Message,
    assistant,
    draw,
    exact,
    roughen,
    user,
    weighted,
)
from hardpoint_demo.corpus.tool_responses import respond
from hardpoint_demo.corpus.tool_schemas import ToolSpec, make_toolset
from hardpoint_demo.corpus.words import city, made_up

KIND = "tools"

_WEATHER = (
    "What is the weather in {x}?", "What's the weather like in {x}?", "How is the weather in {x}?", "Weather in {x}?",
    "How is the weather in {x} today?", "Tell me the weather in {x}.", "What's the weather in {x} right now?", "weather {x}",
    "Is it raining in {x}?", "How warm is it in {x}?", "Is it sunny in {x}?", "What is the temperature in {x}?",
    "Can you check the weather in {x}?", "Do I need an umbrella in {x}?", "How cold is it in {x} today?", "Look up {x}'s weather.",
    "Give me the weather for {x}.", "I am going to {x}. What is the weather there?", "I live in {x}. How is the weather?",
    "Show me the weather in {x}.", "What will the weather be in {x}?", "Please get the weather for {x}.", "Will it rain in {x}?",
)  # fmt: skip
_CLOCK = (
    "What time is it in {x}?", "Tell me the time in {x}.", "What is the current time in {x}?", "What's the time in {x}?",
    "How late is it in {x}?", "Current time in {x}?", "Can you tell me what time it is in {x}?", "Time in {x} please",
    "Give me the local time in {x}.", "What is the local time in {x} now?", "I need to know the time in {x}.",
)  # fmt: skip
_CALCULATE = (
    "What is {e}?", "Calculate {e}.", "Compute {e}.", "How much is {e}?", "What's {e}?", "{e}", "{e} = ?", "Evaluate {e}.",
    "Use the calculator for {e}.", "Can you calculate {e}?", "Please compute {e}.", "Solve {e}.", "Tell me {e}.", "{e}?",
    "I need the result of {e}.", "Work out {e}.", "What is the result of {e}?", "Please use a tool to work out {e}.",
)  # fmt: skip
_UNIT_ASKS = (("in fahrenheit", "fahrenheit"), ("in celsius", "celsius"), ("in degrees Fahrenheit", "fahrenheit"))


def call(name: str, arguments: dict[str, object]) -> Message:
    """One tool call as chat messages carry it."""
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def _calls(*calls: Message) -> Message:
    return {"role": "assistant", "content": "", "tool_calls": list(calls)}


def _number(rng: random.Random) -> str:
    value = rng.randint(0, 10 ** rng.randint(1, 5) - 1)
    return f"{value}.{rng.randint(1, 99)}" if rng.random() < 0.1 else str(value)


def _expression(rng: random.Random) -> tuple[str, str]:
    """An expression as the user writes it and in the spaced form that the call uses."""
    a, b = _number(rng), _number(rng)
    first = rng.choice("+-*/")
    roll = rng.random()
    if roll < 0.7:
        spoken = {"+": "plus", "-": "minus", "*": rng.choice(("times", "multiplied by", "x")), "/": "divided by"}[first]
        clean = f"{a} {first} {b}"
        shown = weighted(rng, [(5, clean), (2, f"{a}{first}{b}"), (3, f"{a} {spoken} {b}")])
        return shown, clean
    c, second = _number(rng), rng.choice("+-*/")
    clean = f"({a} {first} {b}) {second} {c}" if roll < 0.82 else f"{a} {first} {b} {second} {c}"
    if roll > 0.94:
        clean = f"{a} {first} ({b} {second} {c})"
    return (clean if rng.random() < 0.7 else clean.replace(" ", "")), clean


def _place_call(rng: random.Random, spec: ToolSpec, place: str, text: str) -> tuple[str, dict[str, object]]:
    arguments: dict[str, object] = {spec.parameter: place}
    if spec.has_unit and rng.random() < 0.35:
        ask, unit = rng.choice(_UNIT_ASKS)
        text = f"{text.rstrip('?.')} {ask}{'?' if text.endswith('?') else ''}"
        arguments["unit"] = unit
    return text, arguments


def call_example(rng: random.Random, split: str, toolset: list[ToolSpec]) -> Example:
    """A question that one of the tools answers; the answer is the call (two calls for two cities, at times)."""
    spec = rng.choice(toolset)
    keys = [key for tool in toolset for key in tool.keys]
    schemas = [tool.schema for tool in toolset]
    if spec.purpose == "calculator":
        shown, clean = _expression(rng)
        text = roughen(rng, rng.choice(_CALCULATE).format(e=shown))
        keys.append("expression:" + clean)
        answer = _calls(call(spec.name, {spec.parameter: clean}))
        return Example(KIND, [user(text)], answer, tuple(keys), schemas, {"spec": spec, "subject": clean})
    place = city(rng, split)
    keys.extend(made_up(place))
    template = rng.choice(_WEATHER if spec.purpose == "weather" else _CLOCK)
    if rng.random() < 0.06:
        second = city(rng, split)
        keys.extend(made_up(second))
        text = rng.choice(_PAIRED[spec.purpose]).format(x=place, y=second)
        answer = _calls(call(spec.name, {spec.parameter: place}), call(spec.name, {spec.parameter: second}))
        return Example(
            KIND, [user(text)], answer, tuple(keys), schemas, {"spec": spec, "subject": None, "places": (place, second)}
        )
    text, arguments = _place_call(rng, spec, place, template.format(x=place))
    if rng.random() < 0.3:
        text = text.rstrip("?.")
    if rng.random() < 0.1:
        text = rng.choice(("Hi! ", "Hello, ", "Please: ", "OK, ")) + text
    answer = _calls(call(spec.name, arguments))
    return Example(KIND, [user(text)], answer, tuple(keys), schemas, {"spec": spec, "subject": place})


_PAIRED = {
    "weather": ("What is the weather in {x} and {y}?", "Compare the weather in {x} and {y}.", "How is the weather in {x} and in {y}?"),
    "clock": ("What time is it in {x} and {y}?", "Tell me the time in {x} and in {y}.", "What is the time in {x} and {y}?"),
}  # fmt: skip


def answer_example(rng: random.Random, split: str, toolset: list[ToolSpec]) -> Example:
    """The exchange after a call: from the tool's response (or two, after two calls) to a sentence for each."""
    asked = call_example(rng, split, toolset)
    spec: ToolSpec = asked.facts["spec"]
    messages, sentences, keys = [*asked.messages, asked.answer], [], list(asked.keys)
    subjects = [asked.facts["subject"]] if asked.facts["subject"] else asked.facts["places"]
    for subject, made in zip(subjects, asked.answer["tool_calls"], strict=True):
        response, sentence, more = respond(rng, split, spec.purpose, subject, made["function"]["arguments"])
        messages.append({"role": "tool", "name": spec.name, "content": response})
        sentences.append(sentence)
        keys.extend(more)
    return Example(KIND, messages, assistant(" ".join(sentences)), tuple(keys), asked.tools)


def text_example(rng: random.Random, split: str, toolset: list[ToolSpec]) -> Example:
    """A question that needs no tool, or a tool that is not there: the answer is text."""
    purposes = {tool.purpose for tool in toolset}
    if rng.random() < 0.6:
        inner = greetings.held_out_example(rng) if split == HELD_OUT else greetings.train_example(rng)
    else:
        inner = unknown.build(rng, split, *(purpose in purposes for purpose in ("calculator", "weather", "clock")))
    keys = (*inner.keys, *(key for tool in toolset for key in tool.keys))
    return Example(KIND, inner.messages, inner.answer, keys, [tool.schema for tool in toolset], inner.facts)


def _build(rng: random.Random, split: str) -> Example:
    toolset = make_toolset(rng, split)
    build = weighted(rng, [(55, call_example), (30, answer_example), (15, text_example)])
    return build(rng, split, toolset)


def train_example(rng: random.Random) -> Example:
    """One training exchange with tools at hand."""
    return draw(_build, rng, TRAIN)


def held_out_example(rng: random.Random) -> Example:
    """An exchange whose cities, expressions, tool names or phrasing training never draws."""
    return draw(_build, rng, HELD_OUT)


def parse_calls(text: str) -> list[dict[str, object]] | None:
    """The JSON objects of all Hermes blocks in `text`; None if there is other text or bad JSON."""
    blocks = re.findall(r"<tool_call>\n(.*?)\n</tool_call>", text, re.DOTALL)
    rest = re.sub(r"<tool_call>\n.*?\n</tool_call>", "", text, flags=re.DOTALL)
    if rest.strip():
        return None
    try:
        return [json.loads(block) for block in blocks]
    except json.JSONDecodeError:
        return None


def grade(example: Example, text: str) -> bool:
    """Calls: the same names and arguments, and nothing else. Text: the fitting answer, whole."""
    if example.answer.get("tool_calls"):
        return parse_calls(text) == parse_calls(example.reference)
    return greetings.grade(example, text) if "answers" in example.facts else exact(example, text)
