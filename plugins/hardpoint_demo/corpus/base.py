"""What every kind of example shares: its shape, the train/held-out split, and small text helpers."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

Message = dict[str, Any]
Tool = dict[str, Any]
T = TypeVar("T")

TRAIN = "train"
HELD_OUT = "held_out"
_HELD_OUT_SHARE = 10  # one key in this many is held out


@dataclass(frozen=True)
class Example:
    """One graded exchange: `messages` (ending with a user or tool turn) and the reference `answer`.

    `keys` names the contents that the split is decided on (operands, names, phrasings), `facts`
    what the grader of the kind needs besides the reference answer.
    """

    kind: str
    messages: list[Message]
    answer: Message
    keys: tuple[str, ...]
    tools: list[Tool] | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def reference(self) -> str:
        """The reference answer as the text that the model must generate."""
        return answer_text(self.answer)


def assistant(text: str) -> Message:
    """An assistant message with plain text."""
    return {"role": "assistant", "content": text}


def user(text: str) -> Message:
    """A user message."""
    return {"role": "user", "content": text}


def answer_text(message: Message) -> str:
    """The text of an assistant message; its tool calls become Hermes blocks, as the chat template writes them."""
    parts = [message["content"]] if message.get("content") else []
    for call in message.get("tool_calls") or []:
        function = call["function"]
        arguments = json.dumps(function["arguments"], ensure_ascii=False)
        parts.append(f'<tool_call>\n{{"name": "{function["name"]}", "arguments": {arguments}}}\n</tool_call>')
    return "\n".join(parts)


def key_split(key: str) -> str:
    """The side of the split that one key belongs to: a fixed hash, so that no seed can move it."""
    digest = hashlib.blake2b(key.encode(), digest_size=4, person=b"hp-demo").digest()
    return HELD_OUT if int.from_bytes(digest, "little") % _HELD_OUT_SHARE == 0 else TRAIN


def split_of(keys: Sequence[str]) -> str:
    """`train` only if every key is a training key; one held-out key makes the whole example held out."""
    return HELD_OUT if any(key_split(key) == HELD_OUT for key in keys) else TRAIN


def draw(build: Callable[[random.Random, str], Example], rng: random.Random, split: str) -> Example:
    """Call `build` until the example it makes lies on the side `split`; the sides are complements."""
    for _ in range(5000):
        example = build(rng, split)
        if split_of(example.keys) == split:
            return example
    raise RuntimeError(f"{build.__module__}: no {split} example in 5000 draws")


def exact(example: Example, text: str) -> bool:
    """Grade by equality with the reference, outer whitespace aside."""
    return text.strip() == example.reference


def weighted(rng: random.Random, table: Sequence[tuple[float, T]]) -> T:
    """Draw one entry of `table`, pairs of (weight, value)."""
    return rng.choices([value for _, value in table], [weight for weight, _ in table])[0]


def favour(rng: random.Random, options: Sequence[T], favourite: int = 0, share: float = 0.7) -> T:
    """Draw one option, the favourite with probability `share`.

    One clear favourite keeps greedy decoding away from ties while sampling still has variety.
    """
    return options[favourite % len(options)] if rng.random() < share else rng.choice(options)


def listed(text: str, separator: str | None = None) -> list[str]:
    """The entries of a word list written as one text."""
    return text.split(separator)


_PREFIXES = ("Please tell me: ", "Hey, ", "Hi! ", "Hello, ", "Quick question: ", "So, ", "OK, ", "Excuse me, ", "Um, ")
_SUFFIXES = (" Thanks!", " please", ", please", " Thank you.", " thx", " :)")


def roughen(rng: random.Random, text: str) -> str:
    """Write `text` as users write: sometimes a polite frame, other casing, missing punctuation."""
    if rng.random() < 0.15:
        prefix = rng.choice(_PREFIXES)
        keep = text.split(" ")[0] not in _LOWERABLE
        text = prefix + (text if keep or prefix.endswith(("! ", ": ")) else text[0].lower() + text[1:])
    if rng.random() < 0.08:
        text = text.rstrip(".?!") + rng.choice(_SUFFIXES)
    if rng.random() < 0.15:
        text = text.replace("hat's", "hats")
    draw_case = rng.random()
    if draw_case < 0.22:
        text = text.lower()
    elif draw_case < 0.25:
        text = text.upper()
    if rng.random() < 0.3:
        text = text.rstrip(".?!")
    elif rng.random() < 0.04:
        text = text + rng.choice(("?", "!", "??", " ?"))
    return text


_LOWERABLE = frozenset(
    [
        "What",
        "What's",
        "Which",
        "Who",
        "How",
        "Where",
        "When",
        "Why",
        "Tell",
        "Give",
        "Name",
        "Please",
        "Can",
        "Could",
        "Do",
        "Is",
        "Are",
        "Convert",
        "Add",
        "Subtract",
        "Compute",
        "Calculate",
        "Work",
        "Express",
        "Change",
        "Write",
        "Make",
        "Invent",
        "I",
    ]
)
