"""What can be extracted: per schema its fields, how values are made, and sentences that contain them."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from hardpoint_demo.corpus import words
from hardpoint_demo.corpus.base import listed

# A value as it stands in the sentence, and whether JSON writes it as a number.
Value = tuple[str, bool]
Maker = Callable[[random.Random, str], Value]


@dataclass(frozen=True)
class Schema:
    """`fields` maps a field to its aliases (first the usual one) and maker; `sentences` use the field names."""

    fields: dict[str, tuple[tuple[str, ...], Maker]]
    sentences: tuple[str, ...]


_MONTHS = listed("January February March April May June July August September October November December")
_DAYS = listed("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
_JOBS = listed(
    "teacher doctor nurse baker pilot farmer lawyer painter engineer singer chef writer driver plumber dentist"
)
_NOUNS = listed(
    "lamp chair table backpack notebook keyboard monitor mug bottle jacket scarf helmet tent clock camera phone tablet "
    "printer desk sofa blanket pillow kettle toaster drill hammer bicycle guitar violin drone speaker mouse pen"
)
_ADJECTIVES = listed("red blue green black white small large wooden steel leather plastic silver golden light heavy")
_COLORS = listed("red blue green black white grey yellow orange purple pink brown silver golden turquoise")
_EVENTS = listed("conference concert workshop meetup festival exhibition marathon wedding party seminar lecture fair")
_TOPICS = listed("budget roadmap design hiring marketing sales release planning security testing training strategy")
_DOMAINS = listed("com org net io de co.uk edu eu")


def _person(rng: random.Random, split: str) -> Value:
    return (words.person(rng, split) if rng.random() < 0.8 else words.first_name(rng, split)), False


def _city(rng: random.Random, split: str) -> Value:
    return words.city(rng, split), False


def _integer(low: int, high: int) -> Maker:
    return lambda rng, _split: (str(rng.randint(low, high)), True)


def _choice(options: list[str]) -> Maker:
    return lambda rng, split: ((rng.choice(options) if rng.random() < 0.8 else words.word(rng, split)), False)


def _price(rng: random.Random, _split: str) -> Value:
    whole = rng.randint(1, 10 ** rng.randint(1, 4) - 1)
    return (str(whole) if rng.random() < 0.4 else f"{whole}.{rng.randrange(100):02d}"), True


def _product(rng: random.Random, split: str) -> Value:
    noun = rng.choice(_NOUNS) if rng.random() < 0.7 else words.word(rng, split)
    return (f"{rng.choice(_ADJECTIVES)} {noun}" if rng.random() < 0.6 else noun), False


def _brand(rng: random.Random, split: str) -> Value:
    return words.word(rng, split).capitalize(), False


def _company(rng: random.Random, split: str) -> Value:
    return words.word(rng, split).capitalize() + rng.choice(("", "", " Ltd", " Inc", " GmbH", " Labs", " Group")), False


def _order_id(rng: random.Random, _split: str) -> Value:
    number = rng.randint(100, 10 ** rng.randint(3, 6) - 1)
    letters = "".join(rng.choice("ABCDEFGHJKLMNPQRSTUVWXYZ") for _ in range(rng.randint(1, 3)))
    return rng.choice((f"{letters}-{number}", f"{letters}{number}", f"#{number}")), False


def _date(rng: random.Random, _split: str) -> Value:
    day, month, year = rng.randint(1, 28), rng.randrange(12), rng.randint(1990, 2035)
    name = _MONTHS[month]
    forms = (f"{day} {name} {year}", f"{name} {day}, {year}", f"{year}-{month + 1:02d}-{day:02d}", f"{name} {day}",
             f"{day} {name}", f"{day:02d}/{month + 1:02d}/{year}")  # fmt: skip
    return rng.choice(forms), False


def _time(rng: random.Random, _split: str) -> Value:
    hour, minute = rng.randrange(24), rng.choice((0, 15, 30, 45, rng.randrange(60)))
    half = rng.choice(("am", "pm"))
    return rng.choice((f"{hour}:{minute:02d}", f"{hour:02d}:{minute:02d}", f"{hour % 12 + 1} {half}")), False


def _room(rng: random.Random, split: str) -> Value:
    number = rng.randint(1, 499)
    return rng.choice((f"room {number}", f"Room {number}", f"room {words.word(rng, split).capitalize()}")), False


def _title(rng: random.Random, split: str) -> Value:
    name = words.word(rng, split).capitalize()
    return f"{name} {rng.choice(_EVENTS).capitalize()}", False


def _topic(rng: random.Random, split: str) -> Value:
    return (f"{rng.choice(_TOPICS)} {rng.choice(('review', 'meeting', 'call', 'update', 'session'))}"), False


def _email(rng: random.Random, split: str) -> Value:
    local = words.word(rng, split) + rng.choice(("", f".{words.word(rng, split)}", str(rng.randint(1, 99)), "_info"))
    return f"{local}@{words.word(rng, split)}.{rng.choice(_DOMAINS)}", False


def _phone(rng: random.Random, _split: str) -> Value:
    def digits(count: int) -> str:
        return "".join(rng.choice("0123456789") for _ in range(count))

    return rng.choice(
        (f"+{rng.randint(1, 99)} {digits(3)} {digits(4)}", f"{digits(3)}-{digits(4)}", f"0{digits(8)}")
    ), False


SCHEMAS: tuple[Schema, ...] = (
    Schema(
        {
            "name": (("name", "full_name", "person"), _person),
            "age": (("age", "years"), _integer(1, 99)),
            "city": (("city", "town", "home", "location"), _city),
            "job": (("job", "occupation", "profession"), _choice(_JOBS)),
        },
        (
            "{name} is {age} years old and lives in {city}.", "{name}, {age}, lives in {city}.", "{name} ({age}) is from {city}.",
            "{name} is a {age}-year-old {job} from {city}.", "{name} works as a {job} in {city}.", "{name} is {age} years old.",
            "My name is {name}, I am {age} and I live in {city}.", "In {city} lives {name}, who is {age} years old.",
            "I am {name}, a {job} from {city}.", "{name}, a {job}, turned {age} last week in {city}.", "{name} lives in {city}.",
            "At the age of {age}, {name} moved to {city}.", "{name} is {age}, works as a {job} and lives in {city}.",
            "The {job} {name} was born in {city} {age} years ago.", "From {city} comes {name}, aged {age}, a {job}.",
        ),
    ),
    Schema(
        {
            "order_id": (("order_id", "order", "id", "order_number"), _order_id),
            "product": (("product", "item", "article"), _product),
            "quantity": (("quantity", "amount", "count"), _integer(1, 99)),
            "price": (("price", "total", "cost"), _price),
        },
        (
            "Order {order_id}: {quantity} x {product} for {price} euros.", "Order {order_id} contains {quantity} pieces of {product}.",
            "Please send {quantity} units of {product}, order {order_id}.", "I ordered {quantity} of {product} for ${price}.",
            "Your order {order_id} of {quantity} x {product} costs {price} dollars.", "{quantity} x {product} at {price} each.",
            "The customer bought {quantity} pieces of {product} for {price} euros under order {order_id}.",
            "Invoice for order {order_id}: {product}, {quantity} pieces, {price} EUR.", "Order {order_id}, item {product}, {price} USD.",
        ),
    ),
    Schema(
        {
            "event": (("event", "title", "name"), _title),
            "date": (("date", "day", "when"), _date),
            "time": (("time", "start", "hour"), _time),
            "city": (("city", "place", "location", "where"), _city),
        },
        (
            "The {event} takes place on {date} at {time} in {city}.", "{event} starts at {time} on {date} in {city}.",
            "Join us for the {event} in {city} on {date}.", "On {date} the {event} opens in {city} at {time}.",
            "{city} hosts the {event} on {date} at {time}.", "Do not miss the {event}: {date}, {time}, {city}.",
            "The {event} in {city} begins at {time}.", "Come to {city} on {date} for the {event}, which starts at {time}.",
        ),
    ),
    Schema(
        {
            "topic": (("topic", "subject", "title", "meeting"), _topic),
            "person": (("person", "name", "with", "attendee"), _person),
            "day": (("day", "date", "weekday"), _choice(_DAYS)),
            "time": (("time", "hour", "start"), _time),
            "room": (("room", "place", "location"), _room),
        },
        (
            "The {topic} with {person} is on {day} at {time} in {room}.", "{person} invites you to the {topic} on {day} at {time}.",
            "Meet {person} in {room} at {time} on {day}.", "On {day} at {time} we have the {topic} in {room}.",
            "{topic} with {person}, {day} {time}, {room}.", "Please book {room} for the {topic} on {day} at {time}.",
            "I will meet {person} on {day} at {time}.", "The {topic} was moved to {day}, {time}, {room}.",
        ),
    ),
    Schema(
        {
            "product": (("product", "item", "name"), _product),
            "brand": (("brand", "maker", "manufacturer"), _brand),
            "price": (("price", "cost"), _price),
            "color": (("color", "colour"), _choice(_COLORS)),
            "stock": (("stock", "available", "quantity"), _integer(0, 999)),
        },
        (
            "The {product} by {brand} costs {price} euros.", "{brand} sells the {product} in {color} for {price} dollars.",
            "New from {brand}: the {product} in {color}, now only {price} EUR.", "We have {stock} pieces of the {product} by {brand}.",
            "The {product} from {brand} is {color}, costs ${price} and {stock} are in stock.", "For {price} dollars you get a {product}.",
            "{product}, {color}, made by {brand}, {price} euros, {stock} left.", "The {color} {brand} {product} costs {price} euros.",
        ),
    ),
    Schema(
        {
            "name": (("name", "person", "contact"), _person),
            "email": (("email", "mail", "email_address"), _email),
            "company": (("company", "employer", "organization"), _company),
            "phone": (("phone", "tel", "phone_number"), _phone),
        },
        (
            "Contact {name} at {email}.", "You can reach {name} of {company} at {email}.", "{name} <{email}>, {company}, tel. {phone}",
            "{name} works at {company}; the email is {email} and the phone number is {phone}.", "Call {name} at {phone}.",
            "Please write to {email} or call {phone} and ask for {name}.", "My name is {name} from {company}, my email is {email}.",
            "{company}: {name}, {email}, {phone}.", "Best regards, {name}, {company}, {email}", "Send it to {name} ({email}) at {company}.",
        ),
    ),
)  # fmt: skip

_SUFFIX_WORDS = listed("ltd inc gmbh labs group info room am pm review meeting call update session")
LISTED: frozenset[str] = frozenset(
    part
    for options in (_MONTHS, _DAYS, _JOBS, _NOUNS, _ADJECTIVES, _COLORS, _EVENTS, _TOPICS, _DOMAINS, _SUFFIX_WORDS)
    for entry in options
    for part in words.letters(entry)
)
