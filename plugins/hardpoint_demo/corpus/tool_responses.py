"""What tools answer, in the many shapes that operators' tools have, and the sentence the model makes of it."""

from __future__ import annotations

import json
import random

from hardpoint_demo.corpus.base import listed
from hardpoint_demo.corpus.words import made_up, word

_CONDITIONS = listed(
    "sunny,cloudy,rainy,snowy,windy,foggy,stormy,clear,overcast,misty,hazy,humid,dry,mild,icy,partly cloudy,light rain,"
    "heavy rain,light snow,clear sky,thunderstorm,scattered clouds",
    ",",
)
_TEMPERATURE_KEYS = ("temperature", "temp", "temperature_c", "temp_c", "degrees")
_CONDITION_KEYS = ("condition", "conditions", "weather", "description", "summary", "sky")
_ERRORS = ("city not found", "no data", "service unavailable", "unknown place", "timeout", "invalid input", "bad request",
           "division by zero", "not available", "too many requests")  # fmt: skip


def respond(
    rng: random.Random, split: str, purpose: str, subject: str, arguments: dict[str, object]
) -> tuple[str, str, tuple[str, ...]]:
    """A tool's response to a call about `subject`, the answering sentence, and split keys of made-up words in it."""
    if rng.random() < 0.06:
        error = rng.choice(_ERRORS) if rng.random() < 0.6 else f"{word(rng, split)} {rng.choice(('failed', 'error'))}"
        keys = tuple(key for key in made_up(error, _ERROR_WORDS))
        return json.dumps({"error": error}), f"The tool reported an error: {error}.", keys
    if purpose == "weather":
        return (*_weather(rng, subject, arguments), ())
    if purpose == "clock":
        time = f"{rng.randrange(24):02d}:{rng.randrange(60):02d}"
        shapes: tuple[object, ...] = (time, {"time": time}, {"city": subject, "time": time}, {"local_time": time})
        return _dump(rng.choice(shapes)), f"It is {time} in {subject}.", ()
    result = _result(rng)
    shapes = (result, result, {"result": _raw(result)}, {"value": _raw(result)}, {"answer": _raw(result)},
              {"expression": subject, "result": _raw(result)}, f"{subject} = {result}")  # fmt: skip
    return _dump(rng.choice(shapes)), f"{subject} = {result}.", ()


_ERROR_WORDS = frozenset(part for entry in (*_ERRORS, "failed", "error") for part in entry.split())


def _dump(shape: object) -> str:
    return shape if isinstance(shape, str) else json.dumps(shape, ensure_ascii=False)


def _raw(number: str) -> float | int:
    return float(number) if "." in number else int(number)


def _result(rng: random.Random) -> str:
    """A result to copy: it need not be the right one, for the answer must come from the tool."""
    value = rng.randint(0, 10 ** rng.randint(1, 9) - 1)
    sign = "-" if value and rng.random() < 0.15 else ""
    return f"{sign}{value}.{rng.randint(1, 9)}" if rng.random() < 0.2 else f"{sign}{value}"


def _weather(rng: random.Random, place: str, arguments: dict[str, object]) -> tuple[str, str]:
    fahrenheit = arguments.get("unit") == "fahrenheit" or ("unit" not in arguments and rng.random() < 0.1)
    degrees = rng.randint(-30, 110 if fahrenheit else 42)
    shown = f"{degrees}.{rng.randint(1, 9)}" if rng.random() < 0.2 else str(degrees)
    condition = rng.choice(_CONDITIONS)
    letter, unit = ("F", "fahrenheit") if fahrenheit else ("C", "celsius")
    sentence = f"The weather in {place} is {condition} at {shown} °{letter}."
    if rng.random() < 0.25:
        shapes = (f"{condition}, {shown}°{letter}", f"{shown} °{letter}, {condition}", f"{shown} {letter} and {condition}",
                  f"{place}: {condition}, {shown} °{letter}")  # fmt: skip
        return rng.choice(shapes), sentence
    temperature_keys = [key for key in _TEMPERATURE_KEYS if not (fahrenheit and key.endswith("_c"))]
    fields: list[tuple[str, object]] = [
        (rng.choice(temperature_keys), _raw(shown)),
        (rng.choice(_CONDITION_KEYS), condition),
    ]
    if fahrenheit or rng.random() < 0.4:
        fields.append((rng.choice(("unit", "units")), unit if rng.random() < 0.6 else letter))
    if rng.random() < 0.25:
        fields.append(("humidity", rng.randint(10, 99)))
    if rng.random() < 0.2:
        fields.append((rng.choice(("wind", "wind_speed", "wind_kmh")), rng.randint(0, 80)))
    rng.shuffle(fields)
    if rng.random() < 0.5:
        fields.insert(0, (rng.choice(("city", "location", "place")), place))
    return json.dumps(dict(fields), ensure_ascii=False), sentence
