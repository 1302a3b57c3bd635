"""Extracting asked-for fields from a sentence to one JSON object; made-up words in the values are split by hash."""

from __future__ import annotations

import json
import random

from hardpoint_demo.corpus.base import HELD_OUT, TRAIN, Example, assistant, draw, user
from hardpoint_demo.corpus.extraction_schemas import LISTED, SCHEMAS, Schema, Value
from hardpoint_demo.corpus.words import made_up

KIND = "extraction"

_BEFORE = (
    "Extract {f} as JSON: {s}", "Extract {f} as JSON.\n\n{s}", "Extract {f} from this text as JSON: {s}",
    "Return a JSON object with {f}: {s}", "Return {f} as JSON.\n{s}", "Give me {f} as JSON: {s}", "JSON with {f}: {s}",
    "Extract the fields {f} as a JSON object.\n\nText: {s}", "Find {f} in the text and answer in JSON.\n\n{s}",
    "Read the text and return JSON with {f}.\n\n{s}", "Extract {f}: {s}", "Please extract {f} to JSON: {s}",
    "What are {f}? Answer as JSON. {s}", "Convert to JSON with the fields {f}: {s}", "Extract {f} as JSON from: {s}",
    'Extract {f} as JSON: "{s}"', "Extract {f} from the following sentence as JSON: {s}", "Output JSON with the keys {f}.\n{s}",
)  # fmt: skip
_AFTER = (
    "{s}\n\nExtract {f} as JSON.", "{s}\nReturn {f} as JSON.", "{s} Extract {f} as JSON.", "Text: {s}\nFields: {f}\nJSON:",
    "{s}\n\nGive me a JSON object with {f}.", "Here is a text: {s}\nExtract {f} as JSON.", '"{s}" Extract {f} as JSON.',
)  # fmt: skip


def _listed(rng: random.Random, fields: list[str]) -> str:
    """The asked fields as a user lists them; names may be written with blanks or articles or in quotes."""
    style = rng.random()
    if style < 0.15:
        return ", ".join(fields)
    if style < 0.25:
        fields = [f'"{field}"' for field in fields]
    elif style < 0.4:
        fields = [f"the {field}" for field in fields]
    elif style < 0.45:
        fields = [f"`{field}`" for field in fields]
    if len(fields) == 1:
        return fields[0]
    return ", ".join(fields[:-1]) + rng.choice((" and ", " and ", ", and ", ", ", " & ")) + fields[-1]


def _literal(value: Value | None) -> str:
    if value is None:
        return "null"
    return value[0] if value[1] else json.dumps(value[0], ensure_ascii=False)


def _build(rng: random.Random, split: str) -> Example:
    schema: Schema = rng.choice(SCHEMAS)
    sentence = rng.choice(schema.sentences)
    used = [field for field in schema.fields if "{" + field + "}" in sentence]
    values = {field: schema.fields[field][1](rng, split) for field in used}
    if rng.random() < 0.05:
        values = {field: (value.lower(), number) for field, (value, number) in values.items()}
        sentence = sentence.lower()
    keys = tuple(key for value in values.values() for key in made_up(value[0], LISTED))
    text = sentence.format(**{field: value[0] for field, value in values.items()})
    if rng.random() < 0.1:
        text = text.rstrip(".")
    wanted = rng.sample(used, len(used))
    if rng.random() < 0.5:
        wanted = [field for field in used if field in wanted]
    if len(wanted) > 1 and rng.random() < 0.3:
        wanted = wanted[: rng.randint(1, len(wanted) - 1)]
    absent = [field for field in schema.fields if field not in used]
    if absent and rng.random() < 0.12:
        wanted.insert(rng.randint(0, len(wanted)), rng.choice(absent))
    names: dict[str, str] = {}
    for field in wanted:
        aliases = schema.fields[field][0]
        name = aliases[0] if rng.random() < 0.7 else rng.choice(aliases)
        names[field] = name if name not in names.values() else field
    if len(set(names.values())) < len(names):
        names = {field: field for field in wanted}
    pairs = [f'"{names[field]}": {_literal(values.get(field))}' for field in wanted]
    asked = _listed(rng, [names[field] for field in wanted])
    template = rng.choice(_BEFORE if rng.random() < 0.7 else _AFTER)
    head, tail = template.split("{s}")
    frame = [part if "{f}" not in part else _rough_frame(rng, part.format(f=asked)) for part in (head, tail)]
    answer = "{" + ", ".join(pairs) + "}"
    return Example(KIND, [user(frame[0] + text + frame[1])], assistant(answer), keys)


def _rough_frame(rng: random.Random, text: str) -> str:
    """Lower-case the instruction now and then; never the text to extract from, never trailing structure."""
    if rng.random() < 0.12:
        return text.lower()
    if rng.random() < 0.08 and not text[0].isspace() and not text.startswith('"'):
        return rng.choice(("Please: ", "Hello! ", "Hi, ", "Task: ")) + text
    return text


def train_example(rng: random.Random) -> Example:
    """One training extraction."""
    return draw(_build, rng, TRAIN)


def held_out_example(rng: random.Random) -> Example:
    """An extraction with at least one made-up word that training never draws."""
    return draw(_build, rng, HELD_OUT)


def grade(example: Example, text: str) -> bool:
    """Right if the text parses as JSON and equals the reference, the order of the keys included."""
    try:
        found = json.loads(text)
    except json.JSONDecodeError:
        return False
    wanted = json.loads(example.reference)
    return found == wanted and list(found) == list(wanted)
