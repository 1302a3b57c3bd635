"""Unit conversions by integer factors; the value in the larger unit is what the split hashes, per factor."""

from __future__ import annotations

import random
from dataclasses import dataclass
from decimal import Decimal

from hardpoint_demo.corpus.base import HELD_OUT, TRAIN, Example, assistant, draw, exact, roughen, user, weighted

KIND = "units"


@dataclass(frozen=True)
class Unit:
    """A unit as answers write it, for one and for many, and other spellings that prompts use."""

    one: str
    many: str
    aliases: tuple[str, ...]


def _metric(symbol: str, word: str, *more: str) -> Unit:
    british = word.replace("meter", "metre").replace("liter", "litre")
    return Unit(symbol, symbol, tuple(dict.fromkeys((f"{word}s", f"{british}s", *more))))


KM = _metric("km", "kilometer")
M = _metric("m", "meter")
CM = _metric("cm", "centimeter")
MM = _metric("mm", "millimeter")
KG = _metric("kg", "kilogram", "kilos", "kilogrammes")
G = _metric("g", "gram", "grammes")
MG = _metric("mg", "milligram")
ML = _metric("ml", "milliliter", "mL")
LITRE = Unit("litre", "litres", ("liters", "l", "L"))
TONNE = Unit("tonne", "tonnes", ("metric tons", "tons", "t"))
YEAR = Unit("year", "years", ("yrs",))
MONTH = Unit("month", "months", ())
WEEK = Unit("week", "weeks", ())
DAY = Unit("day", "days", ())
HOUR = Unit("hour", "hours", ("h", "hrs"))
MINUTE = Unit("minute", "minutes", ("min", "mins"))
SECOND = Unit("second", "seconds", ("s", "sec", "secs"))
DECADE = Unit("decade", "decades", ())
CENTURY = Unit("century", "centuries", ())
DOLLAR = Unit("dollar", "dollars", ("USD",))
EURO = Unit("euro", "euros", ("EUR",))
CENT = Unit("cent", "cents", ())
FOOT = Unit("foot", "feet", ("ft",))
INCH = Unit("inch", "inches", ("in",))
YARD = Unit("yard", "yards", ("yd",))

# (weight, larger unit, smaller unit, factor, largest value in the larger unit)
CONVERSIONS: tuple[tuple[float, Unit, Unit, int, int], ...] = (
    (8, KM, M, 1000, 999), (7, M, CM, 100, 999), (5, CM, MM, 10, 999), (3, M, MM, 1000, 999), (8, KG, G, 1000, 999),
    (3, G, MG, 1000, 999), (3, TONNE, KG, 1000, 999), (6, LITRE, ML, 1000, 999), (12, HOUR, MINUTE, 60, 299),
    (12, MINUTE, SECOND, 60, 299), (9, DAY, HOUR, 24, 99), (6, WEEK, DAY, 7, 99), (6, YEAR, MONTH, 12, 99),
    (1, DECADE, YEAR, 10, 99), (1, CENTURY, YEAR, 100, 99), (1, DOLLAR, CENT, 100, 999), (1, EURO, CENT, 100, 999),
    (4, FOOT, INCH, 12, 99), (3, YARD, FOOT, 3, 99),
)  # fmt: skip

_ASK = (
    "Convert {v} {a} to {b}.", "Convert {v} {a} into {b}.", "How many {b} are in {v} {a}?", "How many {b} are {v} {a}?",
    "How many {b} is {v} {a}?", "What is {v} {a} in {b}?", "What's {v} {a} in {b}?", "{v} {a} in {b}", "{v} {a} in {b}?",
    "{v} {a} to {b}", "Express {v} {a} in {b}.", "Change {v} {a} to {b}.", "How many {b} are there in {v} {a}?",
    "{v} {a} is how many {b}?", "Can you convert {v} {a} to {b}?", "Please convert {v} {a} to {b}.", "{v} {a} = ? {b}",
    "How much is {v} {a} in {b}?", "Give me {v} {a} in {b}.", "I need {v} {a} in {b}.", "Turn {v} {a} into {b}.",
    "Write {v} {a} in {b}.", "How many {b} make {v} {a}?", "How long is {v} {a} in {b}?",
)  # fmt: skip


def _value(rng: random.Random, factor: int, largest: int) -> Decimal:
    """A value in the larger unit; powers of ten also get decimals, such that the smaller unit is an integer."""
    if rng.random() < 0.25:
        return Decimal(rng.randint(1, 20))
    if factor in (10, 100, 1000) and largest == 999 and rng.random() < 0.35:
        if rng.random() < 0.6 or factor == 10:
            return Decimal(rng.randint(1, 99)) / 10
        return Decimal(rng.randint(factor // 10, 10 * factor - 1)) / factor
    return Decimal(rng.randint(1, largest if rng.random() < 0.6 else min(largest, 99)))


def _number(value: Decimal) -> str:
    return format(value.normalize(), "f")


def _named(value: Decimal, unit: Unit) -> str:
    return f"{_number(value)} {unit.one if value == 1 else unit.many}"


def _spelling(rng: random.Random, unit: Unit) -> str:
    return rng.choice(unit.aliases) if unit.aliases and rng.random() < 0.5 else unit.many


def working(value: int, factor: int, shrink: bool) -> str:
    """The steps that an answer shows for factors 7, 12 and 24 and a value (in the larger unit) of two digits.

    Written out, each step is a one-digit product or a sum, which a small model can learn for unseen values.
    """
    if factor not in (7, 12, 24) or value < 10:
        return ""
    tens, rest = value // 10 * 10, value % 10
    if shrink:
        return f"{value * factor} = {tens * factor} + {rest * factor} = {factor} x {tens} + {factor} x {rest}, so "
    return f"{value} x {factor} = {tens * factor} + {rest * factor} = {value * factor}, so "


def _build(rng: random.Random, _split: str) -> Example:
    big, small, factor, largest = weighted(rng, [(row[0], row[1:]) for row in CONVERSIONS])
    value = _value(rng, factor, largest)
    product = value * factor
    shrink = rng.random() < 0.45
    source, target = (product, value) if shrink else (value, product)
    units = (small, big) if shrink else (big, small)
    text = rng.choice(_ASK).format(v=_number(source), a=_source_name(rng, units[0], source), b=_spelling(rng, units[1]))
    whole = value == int(value)
    work = working(int(value), factor, shrink) if whole else ""
    answer = assistant(f"{work}{_named(source, units[0])} is {_named(target, units[1])}.")
    # One-digit values are facts that working with larger ones builds on, so they are always trained and never asked.
    keys = () if whole and value < 10 else (f"unit:{factor}:{_number(value)}",)
    return Example(KIND, [user(roughen(rng, text))], answer, keys)


def _source_name(rng: random.Random, unit: Unit, value: Decimal) -> str:
    if value == 1 and unit.one != unit.many:
        return unit.one
    return _spelling(rng, unit)


def train_example(rng: random.Random) -> Example:
    """One training conversion, in either direction."""
    return draw(_build, rng, TRAIN)


def held_out_example(rng: random.Random) -> Example:
    """A conversion whose (factor, value) training never draws, in neither direction."""
    return draw(_build, rng, HELD_OUT)


def grade(example: Example, text: str) -> bool:
    """Right only if value and units are, the shown working included."""
    return exact(example, text)
