"""What may be asked of a model: the forms of a prompt, and a prompt after tokenization."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeGuard

import numpy as np
import numpy.typing as npt

#: Text, token ids, ``{"prompt": text}``, ``{"prompt_token_ids": ids}``, or a conversation (list of messages).
Prompt: TypeAlias = str | Sequence[int] | Mapping[str, Any] | Sequence[Mapping[str, Any]] | npt.NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptTokens:
    """A prompt after tokenization.

    Attributes:
        token_ids: int32[prompt], inside the vocabulary and shorter than the context.
        text: the prompt as text, ``None`` when it came as ids.
        cache_salt: from the prompt's mapping, if it had one.
    """

    token_ids: npt.NDArray[np.int32]
    text: str | None = None
    cache_salt: str | None = None


def is_conversation(prompt: Any) -> TypeGuard[Sequence[Mapping[str, Any]]]:
    """Return whether ``prompt`` is a list of chat messages."""
    return (
        isinstance(prompt, Sequence)
        and not isinstance(prompt, (str, bytes))
        and bool(prompt)
        and all(isinstance(message, Mapping) and "role" in message for message in prompt)
    )
