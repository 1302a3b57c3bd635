"""Log-probabilities in OpenAI's two shapes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hardpoint.outputs import Logprob
from hardpoint_server.replies import ChatLogprobs, CompletionLogprobs, TokenLogprob, TopLogprob

#: What stands for minus infinity, which JSON lacks; OpenAI's own choice.
FLOOR = -9999.0

Position = Mapping[int, Logprob]


def chat_logprobs(
    token_ids: Sequence[int],
    positions: Sequence[Position],
    top: int,
    *,
    as_ids: bool = False,
    bytes_of: Callable[[int], bytes | None],
) -> ChatLogprobs:
    """Return the chat shape: one entry per token, each with its ``top`` most likely alternatives.

    ``bytes_of`` gives a token's bytes: its text has U+FFFD where it holds part of a character.
    """

    def spelt(token_id: int, text: str) -> list[int]:
        raw = None if as_ids else bytes_of(token_id)
        return list(text.encode() if raw is None else raw)

    content = []
    for token_id, position in zip(token_ids, positions, strict=True):
        chosen = position[token_id]
        text = _token(token_id, chosen, as_ids)
        content.append(
            TokenLogprob(
                token=text,
                logprob=_finite(chosen.logprob),
                bytes=spelt(token_id, text),
                top_logprobs=[
                    TopLogprob(token=other, logprob=_finite(entry.logprob), bytes=spelt(other_id, other))
                    for other_id, other, entry in _ranked(position, top, as_ids)
                ],
            )
        )
    return ChatLogprobs(content)


def completion_logprobs(
    token_ids: Sequence[int],
    positions: Sequence[Position | None],
    top: int,
    *,
    offset: int = 0,
    as_ids: bool = False,
    decode: Callable[[list[int]], str],
) -> CompletionLogprobs:
    """Return the completions shape; ``offset`` is the number of characters before the first token.

    A position may be ``None``: a prompt's first token has no probability, and its text comes from ``decode``.
    """
    made = CompletionLogprobs([], [], [], [])
    for token_id, position in zip(token_ids, positions, strict=True):
        chosen = position[token_id] if position else None
        text = _token(token_id, chosen, as_ids) if chosen or as_ids else decode([token_id])
        made.text_offset.append(offset)
        made.tokens.append(text)
        made.token_logprobs.append(None if chosen is None else _finite(chosen.logprob))
        made.top_logprobs.append(
            {other: _finite(entry.logprob) for _, other, entry in _ranked(position, top, as_ids, chosen=token_id)}
            if position
            else None
        )
        offset += len(text)
    return made


def prompt_logprobs(positions: Sequence[Position | None] | None) -> list[dict[int, Any] | None] | None:
    """Return vLLM's ``prompt_logprobs``: per position id -> log-probability, rank and text."""
    if positions is None:
        return None
    return [
        None
        if position is None
        else {
            token_id: {"logprob": _finite(entry.logprob), "rank": entry.rank, "decoded_token": entry.decoded_token}
            for token_id, entry in position.items()
        }
        for position in positions
    ]


def _ranked(position: Position, top: int, as_ids: bool, chosen: int | None = None) -> list[tuple[int, str, Logprob]]:
    # Completions list the sampled token beside the most likely ones even when it is none of them.
    most = sorted(position.items(), key=lambda item: item[1].rank or 0)
    kept = [item for i, item in enumerate(most) if i < top or item[0] == chosen]
    return [(token_id, _token(token_id, entry, as_ids), entry) for token_id, entry in kept]


def _token(token_id: int, entry: Logprob | None, as_ids: bool) -> str:
    if as_ids:
        return f"token_id:{token_id}"
    return (entry.decoded_token if entry else None) or ""


def _finite(value: float) -> float:
    return max(value, FLOOR)
