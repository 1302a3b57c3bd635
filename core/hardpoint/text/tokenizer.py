"""The model's tokenizer: ids for text, text for ids, end tokens."""

from __future__ import annotations

import json
import threading
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from hardpoint.contract.errors import ConfigError, RequestError
from hardpoint.text.detokenizer import Detokenizer, PieceDetokenizer, WindowDetokenizer
from hardpoint.text.pieces import Pieces, pieces_of

#: Names under which ``transformers`` saves a tokenizer that is nothing but its ``tokenizer.json``.
_PLAIN_CLASSES: Final = ("PreTrainedTokenizerFast", "TokenizersBackend")


class Tokenizer:
    """A tokenizer of the ``transformers`` library, narrowed to what serving needs and safe to call from any thread.

    Attributes:
        hf: the wrapped ``transformers`` tokenizer.
    """

    def __init__(self, hf: Any) -> None:
        """Wrap a ``transformers`` tokenizer; its own truncation and padding are switched off."""
        self.hf = hf
        self._backend = getattr(hf, "backend_tokenizer", None)
        self._slow_lock = threading.Lock()
        self._texts: dict[int, str] = {}
        if self._backend is not None:
            self._backend.no_truncation()
            self._backend.no_padding()

    @classmethod
    def load(cls, name: str, *, revision: str | None = None, trust_remote_code: bool = False) -> Tokenizer:
        """Load a tokenizer from a folder or the hub.

        Raises:
            ConfigError: when there is none or it cannot be read.
        """
        try:
            hf = _from_pretrained(name, revision or "main", trust_remote_code)
        except Exception as error:
            # transformers raises OSError, ValueError, KeyError, TypeError or the Rust library's bare Exception here.
            reason = f"{type(error).__name__}: {_first_line(error)}"
            hint = "" if trust_remote_code else _remote_code_hint(error)
            raise ConfigError(
                f"cannot load the tokenizer of {name!r}: {reason}.{hint} Name another one with --tokenizer, or serve token "
                "ids only with --skip-tokenizer-init"
            ) from error
        return cls(hf)

    def __len__(self) -> int:
        """Return one more than the largest id of the tokenizer."""
        return self._size

    @cached_property
    def _size(self) -> int:
        return max(self.vocabulary.values(), default=-1) + 1

    @property
    def vocabulary(self) -> Mapping[str, int]:
        """All tokens as the tokenizer spells them, added ones included, with their ids."""
        vocabulary: dict[str, int] = self.hf.get_vocab()
        return vocabulary

    def token_bytes(self, token: int) -> bytes | None:
        """Return the bytes that a token stands for; ``None`` where the tokenizer defines none."""
        return None if self._pieces is None else self._pieces[token]

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids that ``skip_special_tokens`` leaves out of the text."""
        if self._backend is None:
            return frozenset(self.hf.all_special_ids)
        added = self._backend.get_added_tokens_decoder()
        return frozenset(index for index, token in added.items() if token.special)

    @property
    def eos_token_id(self) -> int | None:
        """The tokenizer's own end token."""
        token: int | None = self.hf.eos_token_id
        return token

    @cached_property
    def special_tokens(self) -> dict[str, str]:
        """Named special tokens (``bos_token``, ``eos_token``, ...), as chat templates read them."""
        return {name: str(token) for name, token in self.hf.special_tokens_map.items() if isinstance(token, str)}

    @property
    def chat_templates(self) -> dict[str, str]:
        """The templates that came with the tokenizer by name; the usual one is ``"default"``."""
        found = getattr(self.hf, "chat_template", None)
        if not found:
            return {}
        return dict(found) if isinstance(found, Mapping) else {"default": str(found)}

    @cached_property
    def max_token_characters(self) -> int:
        """Characters of the longest token; bounds how much text fits in a number of tokens."""
        return max((len(token) for token in self.vocabulary), default=1)

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Return the ids of ``text``, with the start and end tokens that the tokenizer adds if asked to.

        Raises:
            RequestError: for text that holds half of a surrogate pair.
        """
        _require_characters(text)
        if self._backend is not None:
            ids: list[int] = self._backend.encode(text, add_special_tokens=add_special_tokens).ids
            return ids
        with self._slow_lock:
            slow: list[int] = self.hf.encode(text, add_special_tokens=add_special_tokens)
            return slow

    def encode_batch(self, texts: Sequence[str], *, add_special_tokens: bool = True) -> list[list[int]]:
        """Return the ids of many texts; faster than one by one."""
        for text in texts:
            _require_characters(text)
        if self._backend is not None:
            encoded = self._backend.encode_batch_fast(list(texts), add_special_tokens=add_special_tokens)
            return [one.ids for one in encoded]
        return [self.encode(text, add_special_tokens=add_special_tokens) for text in texts]

    def decode(self, ids: Sequence[int] | npt.NDArray[np.int32], *, skip_special_tokens: bool = True) -> str:
        """Return the text of ``ids`` as a whole."""
        tokens = [int(token) for token in ids]
        if self._backend is not None:
            text: str = self._backend.decode(tokens, skip_special_tokens=skip_special_tokens)
            return text
        with self._slow_lock:
            slow: str = self.hf.decode(tokens, skip_special_tokens=skip_special_tokens)
            return slow

    def token_text(self, token: int) -> str:
        """Return one token's text as it reads inside a longer text; U+FFFD where it holds part of a character."""
        text = self._texts.get(token)
        if text is None:
            piece = self.token_bytes(token)
            decoded = (
                self.decode([token], skip_special_tokens=False) if piece is None else piece.decode("utf-8", "replace")
            )
            text = self._texts[token] = decoded
        return text

    def detokenizer(self, prompt: Sequence[int], *, skip_special_tokens: bool = True) -> Detokenizer:
        """Return an incremental detokenizer for a continuation of ``prompt``."""
        skipped: Collection[int] = self.special_ids if skip_special_tokens else frozenset()
        if self._pieces is not None:
            return PieceDetokenizer(self._pieces, skipped, prompt)

        def decode(ids: list[int]) -> str:
            return self.decode(ids, skip_special_tokens=skip_special_tokens)

        return WindowDetokenizer(decode, skipped, prompt)

    @cached_property
    def _pieces(self) -> Pieces | None:
        if self._backend is None or self._backend.decoder is None:
            return None
        # The decoder's own state is its part of tokenizer.json, without the vocabulary around it.
        return pieces_of(json.loads(self._backend.decoder.__getstate__()), self._backend.id_to_token)


def _require_characters(text: str) -> None:
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RequestError(
            f"text holds {text[error.start]!r} at character {error.start}: half of a surrogate pair, which is no character; "
            "decode the text properly",
            field="prompt",
        ) from error


def _from_pretrained(name: str, revision: str, trust_remote_code: bool) -> Any:
    """Load through ``transformers``; a folder that names no class of its own needs none of its model code, which is slow."""
    if _is_plain(Path(name)):
        from transformers import PreTrainedTokenizerFast

        return PreTrainedTokenizerFast.from_pretrained(name)
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=trust_remote_code)


def _is_plain(folder: Path) -> bool:
    """Return whether a folder holds a fast tokenizer whose class adds nothing to its file."""
    config = folder / "tokenizer_config.json"
    if not (folder / "tokenizer.json").is_file() or not config.is_file():
        return False
    found = json.loads(config.read_text(encoding="utf-8"))
    return isinstance(found, dict) and found.get("tokenizer_class") in _PLAIN_CLASSES and "auto_map" not in found


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no details").rstrip(".")


def _remote_code_hint(error: Exception) -> str:
    return " It brings code of its own; --trust-remote-code runs it." if "trust_remote_code" in str(error) else ""
