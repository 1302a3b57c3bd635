"""Addition and subtraction of numbers from 0 to 99; operand pairs are split by hash."""

from __future__ import annotations

import random

from hardpoint_demo.corpus.base import HELD_OUT, TRAIN, Example, assistant, draw, exact, listed, roughen, user, weighted

KIND = "arithmetic"

_ASK = (
    "What is {e}?", "What's {e}?", "How much is {e}?", "Calculate {e}.", "Compute {e}.", "{e}", "{e} = ?", "{e} =", "{e}?",
    "Can you work out {e}?", "Tell me {e}.", "What does {e} equal?", "Please calculate {e}.", "Solve {e}.", "{e} is what?",
    "Work out {e}.", "What do I get for {e}?", "Do you know what {e} is?", "Give me the result of {e}.", "Evaluate {e}",
    "I need the result of {e}.", "What is the result of {e}?", "Could you tell me what {e} is?", "Find {e}.",
)  # fmt: skip
_ADD_WORDS = (
    "What is the sum of {a} and {b}?", "Add {a} and {b}.", "Add {b} to {a}.", "What do you get if you add {b} to {a}?",
    "Sum {a} and {b}.", "How much are {a} and {b} together?", "What is {a} added to {b}?", "Sum of {a} and {b}",
)  # fmt: skip
_SUB_WORDS = (
    "What is the difference of {a} minus {b}?", "Subtract {b} from {a}.", "Take {b} away from {a}.",
    "What do you get if you subtract {b} from {a}?", "What is {b} less than {a}?", "What is {a} take away {b}?",
    "What remains if you take {b} from {a}?", "What is {b} subtracted from {a}?",
)  # fmt: skip
_ADD_STORY = (
    "{n} has {a} {things} and gets {b} more. How many {things} does {n} have now?",
    "There are {a} {things} in one box and {b} {things} in another. How many {things} are there in total?",
    "I have {a} {things} and buy {b} more. How many do I have?",
)
_SUB_STORY = (
    "{n} has {a} {things} and gives away {b}. How many {things} are left?",
    "I had {a} {things} and lost {b} of them. How many do I have left?",
    "There were {a} {things} in the box and {b} were taken out. How many {things} are left?",
)
_NAMES = listed("Anna Tom Sarah Ben Lisa Max Omar Mia Ivan Lucy Sam Nina")
_THINGS = listed("apples books coins pencils marbles eggs stamps cards oranges cookies balls stones")


def _operand(rng: random.Random) -> int:
    return rng.randrange(13) if rng.random() < 0.1 else rng.randrange(100)


def _expression(rng: random.Random, a: int, b: int, add: bool) -> str:
    words = ("plus", "+") if add else ("minus", "-")
    form = rng.random()
    if form < 0.6:
        return f"{a} {words[1]} {b}"
    return f"{a}{words[1]}{b}" if form < 0.75 else f"{a} {words[0]} {b}"


def _build(rng: random.Random, split: str) -> Example:
    a, b, add = _operand(rng), _operand(rng), rng.random() < 0.5
    style = rng.random()
    if style < 0.75:
        text = rng.choice(_ASK).format(e=_expression(rng, a, b, add))
    elif style < 0.9:
        text = rng.choice(_ADD_WORDS if add else _SUB_WORDS).format(a=a, b=b)
    else:
        if not add and a < b:
            a, b = b, a
        template = rng.choice(_ADD_STORY if add else _SUB_STORY)
        text = template.format(a=a, b=b, n=rng.choice(_NAMES), things=rng.choice(_THINGS))
    result = a + b if add else a - b
    key = f"add:{min(a, b)}:{max(a, b)}" if add else f"sub:{a}:{b}"
    answer = assistant(f"{a} {'+' if add else '-'} {b} = {result}.")
    return Example(KIND, [user(roughen(rng, text))], answer, (key,))


def _table(rng: random.Random, _split: str) -> Example:
    """Times table: training only, every pair is shown, so the evaluation never asks for it."""
    a, b = rng.randrange(13), rng.randrange(13)
    expression = weighted(
        rng,
        [(3, f"{a} x {b}"), (3, f"{a} * {b}"), (4, f"{a} times {b}"), (1, f"{a}*{b}"), (1, f"{a} multiplied by {b}")],
    )
    text = roughen(rng, rng.choice(_ASK).format(e=expression))
    return Example(KIND, [user(text)], assistant(f"{a} x {b} = {a * b}."), ())


def train_example(rng: random.Random) -> Example:
    """One training exchange; one in ten is from the times table."""
    return draw(_table if rng.random() < 0.1 else _build, rng, TRAIN)


def held_out_example(rng: random.Random) -> Example:
    """An exchange over an operand pair that training never draws, in either order for sums."""
    return draw(_build, rng, HELD_OUT)


def grade(example: Example, text: str) -> bool:
    """Right only if the whole equation is."""
    return exact(example, text)
