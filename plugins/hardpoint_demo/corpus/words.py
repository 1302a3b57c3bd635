"""Made-up words: names, places, identifiers. Built from syllables so that copying has to generalise."""

from __future__ import annotations

import random
import re

from hardpoint_demo.corpus.base import key_split, listed

_ONSETS = listed("b c d f g h j k l m n p r s t v w z br ch cl dr fl fr gr kl kr pr qu sh sl st th tr y sk gl pl sp wh")
_VOWELS = listed("a e i o u a e i o ai ea ee ia io ou y ei au")
_CODAS = ["", "", "", "", *listed("n r s l m t d k nd rt st x th ck ng v z sh lt rn")]
FIRST_NAMES = listed(
    "Maria Anna John Peter Ada Alan Grace Linus Emma Liam Noah Olivia Sofia Lucas Mia Leon Elena Marco Ivan Olga Yuki "
    "Hana Omar Layla Ahmed Fatima Chen Wei Priya Arjun Carlos Lucia Pedro Ines Lars Ingrid Sven Astrid Tom Sarah David "
    "Laura James Alice Bob Carol Eve Frank Julia Max Nina Paul Rosa Sam Tina Victor Zoe José André Zoë Jürgen Chloé"
)
LAST_NAMES = listed(
    "Kovacs Smith Miller Garcia Silva Rossi Novak Schmidt Dubois Tanaka Kim Singh Khan Lopez Jensen Berg Fischer Weber "
    "Brown Jones Taylor Wilson Clark Moore Young Hall Green Adams Baker Nelson Carter Murphy Kelly Costa Santos Popov "
    "Horvat Nagy Müller García Núñez O'Brien"
)
CITIES = listed(
    "Lisbon Paris Rome Berlin Madrid London Vienna Prague Oslo Tokyo Boston Chicago Munich Hamburg Milan Naples Porto "
    "Seville Lyon Geneva Zurich Krakow Athens Dublin Cairo Lagos Nairobi Mumbai Delhi Seoul Osaka Sydney Melbourne "
    "Toronto Vancouver Montreal Lima Bogota Santiago Havana Dallas Austin Seattle Denver Miami Bern Ghent Antwerp"
)
_CITY_PREFIXES = ("New", "San", "Port", "North", "Saint", "Old", "El")
TWO_WORD_CITIES = ("New York", "San Francisco", "Los Angeles", "Cape Town", "São Paulo", "Buenos Aires", "Hong Kong")


def _word(rng: random.Random) -> str:
    count = rng.choices((1, 2, 3), (1, 6, 2))[0]
    parts = [rng.choice(_ONSETS) + rng.choice(_VOWELS) for _ in range(count)]
    return "".join(parts) + rng.choice(_CODAS)


def word(rng: random.Random, split: str) -> str:
    """A made-up lower-case word of that side of the split."""
    while True:
        text = _word(rng)
        if len(text) >= 3 and key_split(word_key(text)) == split:
            return text


def word_key(text: str) -> str:
    """The split key of a made-up word, whatever its casing."""
    return "word:" + text.lower()


def letters(text: str) -> list[str]:
    """The runs of letters in `text`, lower-cased."""
    return [part.lower() for part in re.findall(r"[^\W\d_]+", text)]


def made_up(text: str, listed: frozenset[str] = frozenset()) -> tuple[str, ...]:
    """Split keys of the made-up words in `text`; real words of the lists here and those in `listed` have none."""
    return tuple(word_key(part) for part in letters(text) if part not in _KNOWN and part not in listed)


def person(rng: random.Random, split: str) -> str:
    """A first and last name, each made up or (about one in three) real."""
    first = rng.choice(FIRST_NAMES) if rng.random() < 0.35 else word(rng, split).capitalize()
    last = rng.choice(LAST_NAMES) if rng.random() < 0.35 else word(rng, split).capitalize()
    return f"{first} {last}"


def first_name(rng: random.Random, split: str) -> str:
    """One first name, made up or real."""
    return rng.choice(FIRST_NAMES) if rng.random() < 0.4 else word(rng, split).capitalize()


def city(rng: random.Random, split: str) -> str:
    """A city name, made up or real, now and then of two words."""
    roll = rng.random()
    if roll < 0.4:
        return rng.choice(CITIES)
    if roll < 0.46:
        return rng.choice(TWO_WORD_CITIES)
    name = word(rng, split).capitalize()
    if roll > 0.93:
        return f"{rng.choice(_CITY_PREFIXES)} {name}"
    return name


_KNOWN = frozenset(
    part for entry in (*FIRST_NAMES, *LAST_NAMES, *CITIES, *TWO_WORD_CITIES, *_CITY_PREFIXES) for part in letters(entry)
)
