"""Capitals of countries, in both directions. Facts are all trained; (country, phrasing) pairs are split."""

from __future__ import annotations

import random

from hardpoint_demo.corpus.base import HELD_OUT, TRAIN, Example, assistant, draw, exact, roughen, user
from hardpoint_demo.corpus.capital_table import CAPITAL_ALIASES, CAPITALS, COUNTRY_ALIASES

KIND = "capitals"

_OF_COUNTRY = (
    "What is the capital of {x}?", "What's the capital of {x}?", "Which city is the capital of {x}?", "capital of {x}",
    "Tell me the capital of {x}.", "Name the capital of {x}.", "Can you tell me the capital of {x}?", "{x} capital?",
    "What is the capital city of {x}?", "Do you know the capital of {x}?", "{x}'s capital?", "What is {x}'s capital?",
    "What is the name of the capital of {x}?", "Give me the capital of {x}.", "I want to know the capital of {x}.",
    "The capital of {x} is?", "Could you name the capital city of {x}?", "what city is {x}'s capital", "Capital city of {x}?",
    "What's {x}'s capital city?", "Which city is {x}'s capital?", "Please name the capital of {x}.", "The capital of {x}?",
    "What is the capital of the country {x}?", "I forgot the capital of {x}. What is it?", "Which is the capital of {x}?",
)  # fmt: skip
_OF_CAPITAL = (
    "Which country has the capital {x}?", "{x} is the capital of which country?", "What country is {x} the capital of?",
    "Which country's capital is {x}?", "Of which country is {x} the capital?", "{x} is the capital of what country?",
    "What country has {x} as its capital?", "Tell me which country has {x} as its capital.", "{x} is the capital of?",
    "Name the country whose capital is {x}.", "Whose capital is {x}?", "Which country is {x} the capital of?",
    "What country's capital is {x}?", "Which country has {x} as its capital city?", "What is {x} the capital of?",
    "Do you know which country has the capital {x}?", "Name the country with the capital {x}.", "{x} is whose capital?",
    "The capital {x} belongs to which country?", "What is the country whose capital is {x}?",
)  # fmt: skip
_FOLLOW_UP = ("And {x}?", "What about {x}?", "And of {x}?", "How about {x}?", "And the capital of {x}?", "and {x}?")
_COUNTRIES = tuple(CAPITALS)
_COUNTRY_OF: dict[str, str] = {capital: country for country, capital in CAPITALS.items()}


def of_country(country: str) -> str:
    """The sentence that answers "What is the capital of ...?"."""
    return f"The capital of {country} is {CAPITALS[country]}."


def of_capital(capital: str) -> str:
    """The sentence that answers "Which country has the capital ...?"."""
    return f"{capital} is the capital of {_COUNTRY_OF[capital]}."


def _written_country(rng: random.Random, country: str) -> str:
    names = COUNTRY_ALIASES.get(country, ())
    if names and rng.random() < 0.4:
        return rng.choice(names)
    return country.removeprefix("the ") if rng.random() < 0.3 else country


def _written_capital(rng: random.Random, capital: str) -> str:
    names = CAPITAL_ALIASES.get(capital, ())
    return rng.choice(names) if names and rng.random() < 0.4 else capital


def _exchange(rng: random.Random) -> tuple[str, str, str]:
    """A question (user text), its answer and its split key."""
    country = rng.choice(_COUNTRIES)
    if rng.random() < 0.55:
        template = rng.choice(_OF_COUNTRY)
        text = template.format(x=_written_country(rng, country))
        return text, of_country(country), f"capital:{country}:{template}"
    template = rng.choice(_OF_CAPITAL)
    text = template.format(x=_written_capital(rng, CAPITALS[country]))
    return text, of_capital(CAPITALS[country]), f"country:{country}:{template}"


def _build(rng: random.Random, _split: str) -> Example:
    text, answer, key = _exchange(rng)
    if rng.random() < 0.92:
        return Example(KIND, [user(roughen(rng, text))], assistant(answer), (key,))
    first = rng.choice(_COUNTRIES)
    second = rng.choice(_COUNTRIES)
    opener, follow = rng.choice(_OF_COUNTRY), rng.choice(_FOLLOW_UP)
    messages = [
        user(roughen(rng, opener.format(x=first))),
        assistant(of_country(first)),
        user(roughen(rng, follow.format(x=second))),
    ]
    keys = (f"capital:{first}:{opener}", f"capital:{second}:{follow}")
    return Example(KIND, messages, assistant(of_country(second)), keys)


def train_example(rng: random.Random) -> Example:
    """One training question, or a question and a follow-up."""
    return draw(_build, rng, TRAIN)


def held_out_example(rng: random.Random) -> Example:
    """A (country, phrasing) pair that training never draws."""
    return draw(_build, rng, HELD_OUT)


def grade(example: Example, text: str) -> bool:
    """Right only if country and capital are, in the trained sentence."""
    return exact(example, text)
