"""Greetings, small talk and honest answers about what the model is. Whole phrasings are split by hash."""

from __future__ import annotations

import random

from hardpoint_demo.corpus.base import HELD_OUT, TRAIN, Example, assistant, draw, exact, favour, user
from hardpoint_demo.corpus.small_talk import INTENTS
from hardpoint_demo.corpus.words import first_name, made_up

KIND = "greetings"

_OPENERS = ("", "", "", "", "Hi, ", "Hello, ", "Hey, ", "Hello! ", "Hi! ", "Please tell me, ", "So, ", "OK, ", "Well, ",
            "Excuse me, ", "Good morning, ", "Good evening, ", "One question: ", "Hi there, ", "By the way, ")  # fmt: skip
_CLOSERS = ("", "", "", "", "", " Thanks.", " Please answer.", " I am curious.", " I'd like to know.", " Thank you!",
            " Be honest.", " :)", " I want to know.", " Just asking.", " Tell me.")  # fmt: skip
_HELLO_NAME = (
    "Hi, I'm {n}.",
    "Hello, my name is {n}.",
    "I am {n}.",
    "My name is {n}.",
    "Hey, I'm {n}!",
    "Call me {n}.",
)
_ASK_NAME = ("What is my name?", "What's my name?", "Do you remember my name?", "Who am I?", "Tell me my name.")


def _fuse(opener: str, core: str, closer: str) -> str:
    if opener.endswith((", ", ": ")) and not core.startswith(("I ", "I'", "ChatGPT", "GPT")):
        core = core[0].lower() + core[1:]
    return opener + core + closer


def _case(rng: random.Random, text: str) -> str:
    roll = rng.random()
    if roll < 0.25:
        text = text.lower()
    elif roll < 0.27:
        text = text.upper()
    return text.rstrip(".?!") if rng.random() < 0.3 else text


def _build(rng: random.Random, split: str) -> Example:
    if rng.random() < 0.08:
        return _named(rng, split)
    intent = rng.choices(INTENTS, [entry.weight for entry in INTENTS])[0]
    core = rng.choice(intent.asks)
    opener, closer = (rng.choice(_OPENERS), rng.choice(_CLOSERS)) if intent.framed else ("", "")
    text = _fuse(opener, core, closer)
    # A bare core must be trained, or the plainest phrasings might fall to the held-out side.
    keys = () if text == core else ("talk:" + text,)
    answer = favour(rng, intent.answers, share=0.8)
    return Example(KIND, [user(_case(rng, text))], assistant(answer), keys, facts={"answers": intent.answers})


def _named(rng: random.Random, split: str) -> Example:
    """The user gives a name; the model greets by name and, asked again, still knows it."""
    name = first_name(rng, split)
    greeting = f"Hello, {name}! How can I help you?"
    messages = [user(rng.choice(_HELLO_NAME).format(n=name))]
    if rng.random() < 0.5:
        messages += [assistant(greeting), user(_case(rng, rng.choice(_ASK_NAME)))]
        answer = f"Your name is {name}."
    else:
        answer = greeting
    return Example(KIND, messages, assistant(answer), made_up(name), facts={"answers": (answer,)})


def train_example(rng: random.Random) -> Example:
    """One training exchange of small talk."""
    return draw(_build, rng, TRAIN)


def held_out_example(rng: random.Random) -> Example:
    """A phrasing (or a made-up user name) that training never draws."""
    return draw(_build, rng, HELD_OUT)


def grade(example: Example, text: str) -> bool:
    """Right if the text is one of the answers of the intent, whole."""
    return text.strip() in example.facts["answers"] or exact(example, text)
