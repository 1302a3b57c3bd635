"""Incremental detokenization: tokens in, whole characters out, constant time a token.

The text of a continuation is what it adds to its prompt: the deltas of all tokens, joined, are the decoded sequence without
the decoded prompt, however the tokens come. Half a character is never shown: its bytes wait for the rest, and become
U+FFFD only when something else follows or the sequence ends.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from hardpoint.text.pieces import Pieces

#: Tokens of the prompt that decide how a continuation begins; no character has more bytes.
_CONTEXT = 4
#: Tokens after which a text that ends in U+FFFD is taken at its word: no character has so many pieces.
_PATIENCE = 8
_PER_BYTE = "hardpoint.replace_each_byte"


def _replace_each_byte(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "\ufffd" * (error.end - error.start), error.end


codecs.register_error(_PER_BYTE, _replace_each_byte)


class Detokenizer(Protocol):
    """Turns one sequence's tokens into text."""

    def push(self, token: int) -> str:
        """Return the text that ``token`` completes; may be empty."""

    def flush(self) -> str:
        """Return what is left when the sequence ends: U+FFFD for bytes that never became a character."""


class PieceDetokenizer:
    """Exact and constant in time, for tokenizers whose tokens have fixed bytes."""

    def __init__(self, pieces: Pieces, skipped: Collection[int], prompt: Sequence[int]) -> None:
        """Continue ``prompt``; tokens in ``skipped`` make no text."""
        self._pieces = pieces
        self._skipped = skipped
        self._decoder = codecs.getincrementaldecoder("utf-8")(_PER_BYTE if pieces.runs else "replace")
        shown = [token for token in prompt[-_CONTEXT:] if token not in skipped]
        self._first = not shown and all(token in skipped for token in prompt)
        self._strips = self._first and pieces.strips_start
        for token in shown:
            self._text_of(token, pieces[token])

    def push(self, token: int) -> str:
        """Return the text that ``token`` completes."""
        if token in self._skipped:
            return ""
        if self._first:
            self._first = False
            text = self._text_of(token, self._pieces.first(token))
        else:
            text = self._text_of(token, self._pieces[token])
        if self._strips and text:
            self._strips = False
            text = text.removeprefix(" ")
        return text

    def _text_of(self, token: int, piece: bytes) -> str:
        if self._pieces.runs and token not in self._pieces.single_bytes:
            # A run of single bytes ends here: what is incomplete now will never be completed.
            return self.flush() + piece.decode()
        return self._decoder.decode(piece)

    def flush(self) -> str:
        """Return U+FFFD for bytes that never became a character."""
        text = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return text


class WindowDetokenizer:
    """For every other tokenizer: decodes a short window of tokens twice and shows the difference."""

    def __init__(self, decode: Callable[[list[int]], str], skipped: Collection[int], prompt: Sequence[int]) -> None:
        """Continue ``prompt``; ``decode`` must leave out the tokens in ``skipped``."""
        self._decode = decode
        self._skipped = skipped
        shown = [token for token in prompt[-2 * _CONTEXT :] if token not in skipped]
        if not shown:
            shown = [token for token in prompt if token not in skipped][-_CONTEXT:]
        self._window = shown
        self._prefix = decode(shown) if shown else ""
        self._settled = len(shown)

    def push(self, token: int) -> str:
        """Return the text that ``token`` completes."""
        if token in self._skipped:
            return ""
        self._window.append(token)
        text = self._decode(self._window)
        waits = text.endswith("\ufffd") and len(self._window) - self._settled < _PATIENCE
        if waits or len(text) <= len(self._prefix):
            return ""
        return self._settle(text)

    def _settle(self, text: str) -> str:
        new = text[len(self._prefix) :]
        self._window = self._window[self._settled :]
        self._settled = len(self._window)
        self._prefix = self._decode(self._window)
        return new

    def flush(self) -> str:
        """Return what the last tokens gave, complete or not."""
        text = self._decode(self._window)
        return self._settle(text) if len(text) > len(self._prefix) else ""
