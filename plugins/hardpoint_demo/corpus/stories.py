"""Short stories about an asked-for hero, with an adjective and a place; (adjective, hero, place) is split."""

from __future__ import annotations

import random
import re

from hardpoint_demo.corpus.base import HELD_OUT, TRAIN, Example, assistant, draw, favour, listed, roughen, user
from hardpoint_demo.corpus.words import word

KIND = "stories"

_HEROES = listed(
    "cat dog fox mouse bear lion rabbit owl horse frog turtle wolf dragon robot knight princess wizard pirate king queen "
    "girl boy farmer sailor witch giant fairy penguin elephant monkey tiger bird snail bee ghost unicorn baker painter "
    "astronaut detective hedgehog squirrel goat duck whale prince fish spider"
)
_ADJECTIVES = listed(
    "brave little clever lonely kind funny shy happy sad curious lazy tiny old young hungry sleepy proud friendly grumpy "
    "wise silly angry gentle quick slow strong quiet honest greedy nervous cheerful patient stubborn polite"
)
_PLACES = listed(
    "in a castle|in a forest|on the moon|in the desert|on an island|in a big city|in a small village|under the sea|on a ship|"
    "in a cave|on a farm|in the mountains|in a garden|at school|in a library|in a kitchen|in space|in the jungle|on a hill|"
    "by the river|in a tower|at the beach|in a museum|in the snow|in a swamp|in a hotel|on a train|in an old house|"
    "near a lake|in a bakery|in a tunnel|in a park",
    "|",
)
_ASK = (
    "Tell me a story about {x}.", "Write a short story about {x}.", "Tell me a short story about {x}.", "A story about {x}",
    "Can you tell me a story about {x}?", "Please write a story about {x}.", "I want to hear a story about {x}.",
    "Make up a story about {x}.", "Give me a story about {x}.", "Write a little story about {x}.", "Story about {x} please",
    "Could you write a story about {x}?", "Invent a story about {x}.", "I would like a story about {x}.", "A tale about {x}",
    "Tell a story about {x}.", "Tell me a tale about {x}.", "Let's hear a story about {x}.", "Short story: {x}",
)  # fmt: skip
_OPENINGS = (
    "Once upon a time, there was {ah} who lived {p}.",
    "Long ago, {ah} lived {p}.",
    "There once was {ah} {p}.",
    "One day, {ah} woke up {p}.",
    "Everybody knew the {a} {h} who lived {p}.",
)
_PROBLEMS = (
    "One morning, the {h} found a {thing} and wondered who had lost it.",
    "One night, a loud noise came from behind the {thing}.",
    "The {h} had one big wish: to find the lost {thing}.",
    "But one day the {thing} was gone, and nobody knew where it was.",
    "A stranger came by and asked for help with a broken {thing}.",
    "Every day the {h} looked at the {thing} and dreamed of an adventure.",
)
_THINGS = listed(
    "golden key,old map,silver bell,red lantern,wooden box,magic mirror,blue stone,music box,little clock", ","
)
_MIDDLES = (
    "The {h} was {a}, so there was no time to lose.",
    "At first the {h} did not know what to do, but then a small bird showed the way.",
    "It took three days and three nights, and the {h} never gave up.",
    "With the help of a new friend, the {h} found an answer.",
    "The {h} thought about it for a long time and had a good idea.",
)
_EXTRAS = (
    "The wind was cold, but the stars were bright.",
    "Some laughed, but most were amazed.",
    "It was not easy at all.",
    "A friendly neighbor brought warm soup and bread.",
)
_ENDINGS = (
    "In the end, everyone was happy, and the {a} {h} slept well that night.",
    "From that day on, everyone loved the {a} {h}.",
    "That is how the {a} {h} became a hero.",
    "And so the {a} {h} learned that friends are the greatest treasure.",
    "At last the {a} {h} came home and told the story to everyone.",
)


def _article(text: str) -> str:
    return ("an " if text[0] in "aeiou" else "a ") + text


def _rank(text: str, size: int) -> int:
    """Which of `size` options a word favours: fixed and learnable, so that greedy stories still differ."""
    return sum(map(ord, text)) % size


def tell(rng: random.Random, adjective: str, hero: str, place: str) -> str:
    """A story of four or five sentences."""
    parts = [
        favour(rng, _OPENINGS, _rank(place, len(_OPENINGS))),
        favour(rng, _PROBLEMS, _rank(hero, len(_PROBLEMS))),
        favour(rng, _MIDDLES, _rank(adjective, len(_MIDDLES))),
        *([favour(rng, _EXTRAS, _rank(place, len(_EXTRAS)))] if favour(rng, (0, 1), _rank(hero, 2)) else []),
        favour(rng, _ENDINGS, _rank(adjective, len(_ENDINGS))),
    ]
    thing = favour(rng, _THINGS, _rank(place, len(_THINGS)))
    both = _article(f"{adjective} {hero}")
    return " ".join(parts).format(a=adjective, h=hero, p=place, ah=both, thing=thing)


def _build(rng: random.Random, split: str) -> Example:
    adjective = rng.choice(_ADJECTIVES) if rng.random() < 0.9 else word(rng, split)
    hero = rng.choice(_HEROES) if rng.random() < 0.85 else word(rng, split)
    place = rng.choice(_PLACES)
    if rng.random() < 0.15:
        place = f"{rng.choice(('in a', 'on a', 'near the', 'in the'))} {word(rng, split)}"
    elif rng.random() < 0.1:
        place = f"in {word(rng, split).capitalize()}"
    roll = rng.random()
    subject = _article(f"{adjective} {hero}") + f" {place}"
    if roll < 0.15:
        subject = _article(f"{adjective} {hero}") + f" who lives {place}"
    text = roughen(rng, rng.choice(_ASK).format(x=subject))
    if any(part.isupper() for part in text.split() if len(part) > 2) or (
        place.split()[-1][0].isupper() and text.islower()
    ):
        text = rng.choice(_ASK).format(x=subject)
    facts = {"hero": hero, "adjective": adjective, "place": place}
    key = f"story:{adjective}:{hero}:{place}"
    return Example(KIND, [user(text)], assistant(tell(rng, adjective, hero, place)), (key,), facts=facts)


def _loose(rng: random.Random, _split: str) -> Example:
    """Requests that leave things open; training only, since what is right is then open too."""
    adjective, hero, place = rng.choice(_ADJECTIVES), rng.choice(_HEROES), rng.choice(_PLACES)
    roll = rng.random()
    if roll < 0.3:
        ask = rng.choice(
            ("Tell me a story.", "Tell me a short story.", "Write a story.", "Story please", "I'd like a story.")
        )
        adjective, hero, place = favour(rng, (("brave", "cat", "in a castle"), (adjective, hero, place)))
    elif roll < 0.55:
        adjective, place = favour(rng, (("little", "in a forest"), (adjective, place)), _rank(hero, 1))
        ask = rng.choice(_ASK).format(x=_article(hero))
    elif roll < 0.8:
        place = favour(rng, ("in a small village", place))
        ask = rng.choice(_ASK).format(x=_article(f"{adjective} {hero}"))
    else:
        adjective = favour(rng, ("brave", adjective))
        ask = rng.choice(_ASK).format(x=f"{_article(hero)} {place}")
    return Example(KIND, [user(roughen(rng, ask))], assistant(tell(rng, adjective, hero, place)), ())


def train_example(rng: random.Random) -> Example:
    """One training story; one in five requests leaves adjective, place or all open."""
    return draw(_loose if rng.random() < 0.2 else _build, rng, TRAIN)


def held_out_example(rng: random.Random) -> Example:
    """A request for an (adjective, hero, place) that training never draws."""
    return draw(_build, rng, HELD_OUT)


def grade(example: Example, text: str) -> bool:
    """Right if hero, adjective and place occur, in three sentences or more, the last one complete."""
    lowered = text.lower()
    named = all(example.facts[part].lower() in lowered for part in ("hero", "adjective", "place"))
    sentences = [part for part in re.split(r"(?<=[.!?])\s+", text.strip()) if part]
    return named and 3 <= len(sentences) <= 8 and text.strip()[-1] in ".!?"
