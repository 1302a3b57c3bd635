"""From a token to its bytes, for the decoders that nearly all language models use.

Byte-level BPE (GPT-2's alphabet) and SentencePiece's scheme (``▁`` for a space, ``<0xNN>`` for single bytes) give every
token a fixed byte string; text is then these bytes one after the other, which makes incremental detokenization exact and
constant in time. Decoders that are neither (WordPiece, CTC, ...) have no such table.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

_SINGLE_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")


def byte_alphabet() -> dict[str, int]:
    """Return GPT-2's alphabet: printable character -> the byte that it stands for."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    alphabet = {chr(byte): byte for byte in printable}
    alphabet.update({chr(256 + position): byte for position, byte in enumerate(others)})
    return alphabet


class Pieces:
    """The bytes of each token of one tokenizer, made when first asked for.

    Attributes:
        strips_start: whether one leading space of a whole text is dropped (SentencePiece's dummy prefix).
        first_drops: what a whole text's first token loses before it is converted (the Metaspace decoder), or ``""``.
        runs: whether parts of characters come only as ``<0xNN>`` tokens, one byte each.
        single_bytes: the ``<0xNN>`` tokens among those asked for so far.
    """

    def __init__(
        self,
        token_of: Callable[[int], str | None],
        convert: Callable[[str], bytes],
        *,
        strips_start: bool = False,
        first_drops: str = "",
        runs: bool = False,
    ) -> None:
        """Make a table from ``token_of`` (id -> token) and ``convert`` (token -> bytes)."""
        self.strips_start = strips_start
        self.first_drops = first_drops
        self.runs = runs
        self.single_bytes: set[int] = set()
        self._token_of = token_of
        self._convert = convert
        self._known: dict[int, bytes] = {}

    def __getitem__(self, token: int) -> bytes:
        """Return a token's bytes; none for an id that the tokenizer does not know."""
        piece = self._known.get(token)
        if piece is None:
            text = self._token_of(token) or ""
            if self.runs and _SINGLE_BYTE.fullmatch(text):
                self.single_bytes.add(token)
            piece = self._known[token] = self._convert(text)
        return piece

    def first(self, token: int) -> bytes:
        """Return the bytes of ``token`` as the first one of a whole text."""
        text = self._token_of(token) or ""
        return self._convert(text.replace(self.first_drops, "")) if self.first_drops else self[token]


def pieces_of(decoder: Mapping[str, Any] | None, token_of: Callable[[int], str | None]) -> Pieces | None:
    """Return the table for a decoder as ``tokenizer.json`` spells it, or ``None`` if tokens have no fixed bytes."""
    if decoder is None:
        return None
    steps = list(decoder["decoders"]) if decoder["type"] == "Sequence" else [dict(decoder)]
    kinds = [step["type"] for step in steps]
    if kinds in (["ByteLevel"], ["ByteLevel", "Fuse"]):
        return Pieces(token_of, _byte_level())
    return _sentence_piece(steps, token_of)


def _byte_level() -> Callable[[str], bytes]:
    alphabet = byte_alphabet()

    def convert(token: str) -> bytes:
        found = [alphabet.get(character) for character in token]
        known = [byte for byte in found if byte is not None]
        return bytes(known) if len(known) == len(found) else token.encode()

    return convert


def _sentence_piece(steps: list[Mapping[str, Any]], token_of: Callable[[int], str | None]) -> Pieces | None:
    replacements: list[tuple[str, str]] = []
    first_drops = ""
    rest = list(steps)
    while rest and rest[0]["type"] in ("Replace", "Metaspace"):
        step = rest.pop(0)
        if step["type"] == "Metaspace":
            first_drops = step["replacement"] if step.get("prepend_scheme", "always") != "never" else ""
            replacements.append((step["replacement"], " "))
        elif "String" in step["pattern"] and step["pattern"]["String"]:
            replacements.append((step["pattern"]["String"], step["content"]))
        else:
            return None
    fallback = bool(rest) and rest[0]["type"] == "ByteFallback"
    rest = rest[1:] if fallback else rest
    strip: Mapping[str, Any] | None = None
    if [step["type"] for step in rest] == ["Fuse", "Strip"]:
        strip = rest[1]
        if (strip["content"], strip["start"], strip["stop"]) != (" ", 1, 0):
            return None
    elif [step["type"] for step in rest] not in ([], ["Fuse"]):
        return None
    if not replacements and not fallback:
        return None

    def convert(token: str) -> bytes:
        if fallback and _SINGLE_BYTE.fullmatch(token):
            return bytes([int(token[3:5], 16)])
        for old, new in replacements:
            token = token.replace(old, new)
        return token.encode()

    return Pieces(token_of, convert, strips_start=strip is not None, first_drops=first_drops, runs=fallback)
