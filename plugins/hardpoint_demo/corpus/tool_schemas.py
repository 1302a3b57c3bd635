"""Tool schemas as operators might write them: other names, other parameters, other wording."""

from __future__ import annotations

import random
from dataclasses import dataclass

from hardpoint_demo.corpus.base import Tool, listed
from hardpoint_demo.corpus.words import word, word_key


@dataclass(frozen=True)
class ToolSpec:
    """One tool of a conversation: what it is for, the names to copy, its schema, and the split keys of the names."""

    purpose: str  # "weather", "calculator" or "clock"
    name: str
    parameter: str
    has_unit: bool
    schema: Tool
    keys: tuple[str, ...]


_USUAL = {"weather": ("get_weather", "city"), "calculator": ("calculator", "expression"), "clock": ("get_time", "city")}
_VERBS = {
    "weather": listed("get fetch lookup check find query read show ask current retrieve request"),
    "calculator": listed("calculate compute evaluate eval solve run do get math calc"),
    "clock": listed("get fetch lookup check find query read show current tell"),
}
_NOUNS = {
    "weather": listed("weather forecast weather_report weather_info weather_data current_weather conditions"),
    "calculator": listed("expression math calculation formula arithmetic calculator result equation"),
    "clock": listed("time clock local_time current_time time_in_city datetime"),
}
_SINGLE = {
    "weather": listed("weather forecast get_weather lookup_weather weather_lookup getWeather get_current_weather"),
    "calculator": listed("calculator calculate calc compute math evaluate"),
    "clock": listed("clock time get_time world_clock getTime get_current_time"),
}
_PARAMETERS = {
    "weather": listed("city location place town city_name where loc q query area address"),
    "calculator": listed("expression expr formula input calculation equation query q exp text"),
    "clock": listed("city location place town city_name where zone"),
}
_DESCRIPTIONS = {
    "weather": (
        "Get the current weather for a city.", "Get the weather in a city", "Returns the current weather of a place.",
        "Look up the weather.", "Current weather conditions for a location.", "Tells the weather in a given town.", "Weather",
        "Get current temperature and conditions.", "Fetch the weather forecast for a city.", "Retrieve weather data.",
    ),
    "calculator": (
        "Evaluate an arithmetic expression.", "Calculate the result of an expression.", "A calculator.", "Do math.",
        "Compute a mathematical expression.", "Evaluates a math expression and returns the result.", "Simple calculator",
        "Performs arithmetic calculations.", "Solve an arithmetic problem.", "Calculator for + - * /",
    ),
    "clock": (
        "Get the current time in a city.", "Returns the local time of a place.", "Look up the time in a city.", "Clock",
        "Current time for a location.", "Tells what time it is in a given town.", "World clock.", "Get the local time",
    ),
}  # fmt: skip
_PARAMETER_DESCRIPTIONS = {
    "weather": ("The city", "Name of the city", "City name, e.g. Paris", "The place to look up", "The city to get the weather for"),
    "calculator": ("The expression", "Expression to evaluate, e.g. 2 + 3", "The calculation to do", "Arithmetic expression"),
    "clock": ("The city", "Name of the city", "The place to look up", "City name, e.g. Tokyo"),
}  # fmt: skip


def _identifier(rng: random.Random, split: str, purpose: str) -> tuple[str, tuple[str, ...]]:
    roll = rng.random()
    if roll < 0.45:
        return rng.choice(_SINGLE[purpose]), ()
    if roll < 0.8:
        name = f"{rng.choice(_VERBS[purpose])}_{rng.choice(_NOUNS[purpose])}"
        if rng.random() < 0.2:
            first, *rest = name.split("_")
            name = first + "".join(part.capitalize() for part in rest)
        return name, ("identifier:" + name,)
    made = word(rng, split)
    name = f"{made}_{rng.choice(_NOUNS[purpose])}" if rng.random() < 0.7 else f"{rng.choice(_VERBS[purpose])}_{made}"
    return name, (word_key(made),)


def _parameter(rng: random.Random, split: str, purpose: str) -> tuple[str, tuple[str, ...]]:
    if rng.random() < 0.85:
        return rng.choice(_PARAMETERS[purpose]), ()
    made = word(rng, split)
    return made, (word_key(made),)


def make_tool(rng: random.Random, split: str, purpose: str) -> ToolSpec:
    """One tool for `purpose`; about one in three has the usual name and parameter."""
    if rng.random() < 0.35:
        (name, parameter), keys = _USUAL[purpose], ()
    else:
        name, name_keys = _identifier(rng, split, purpose)
        parameter, parameter_keys = _parameter(rng, split, purpose)
        keys = (*name_keys, *parameter_keys)
    described: dict[str, object] = {"type": "string"}
    if rng.random() < 0.7:
        described["description"] = rng.choice(_PARAMETER_DESCRIPTIONS[purpose])
    properties: dict[str, object] = {parameter: described}
    has_unit = purpose == "weather" and rng.random() < 0.3
    if has_unit:
        properties["unit"] = {"type": "string", "enum": ["celsius", "fahrenheit"]}
    parameters = {"type": "object", "properties": properties, "required": [parameter]}
    function = {"name": name, "description": rng.choice(_DESCRIPTIONS[purpose]), "parameters": parameters}
    schema: Tool = {"type": "function", "function": function}
    roll = rng.random()
    if roll < 0.15:
        schema = _sorted(schema)
    elif roll < 0.25:
        schema = function
    return ToolSpec(purpose, name, parameter, has_unit, schema, keys)


def _sorted(value: object) -> object:
    """`value` with the keys of every object in alphabetical order, as some JSON writers leave them."""
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    return value


def make_toolset(rng: random.Random, split: str, need: str | None = None) -> list[ToolSpec]:
    """One to three tools of different purposes in any order, the one for `need` among them if asked for."""
    purposes = ["weather", "calculator", "clock"]
    count = rng.choices((1, 2, 3), (3, 5, 2))[0]
    chosen = rng.sample(purposes, count)
    if need and need not in chosen:
        chosen[rng.randrange(count)] = need
    if need is None and chosen == ["clock"]:
        chosen = ["weather"]
    return [make_tool(rng, split, purpose) for purpose in chosen]
