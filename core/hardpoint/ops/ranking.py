"""Which tokens are the most likely ones, and how likely: logits are float32 [n, vocab] unless said otherwise.

Equally likely tokens are ordered by id, the lowest first, in every op here. So the answer is a function of the logits
alone: it does not depend on the batch, on ``k``, or on how a device walks the vocabulary.

A vocabulary is read in blocks: the best token lies in the block with the largest maximum, and the ``k`` best tokens lie
in the ``k`` blocks with the largest maxima. One pass of maxima, which every device does at memory speed, leaves little
to search.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import torch

from hardpoint.ops.registry import OpCall, op
from hardpoint.ops.values import Values

FLOAT32: Final = (torch.float32,)
#: Logits that one pass of log-probabilities holds at once: 64 MiB of float32.
CHUNK: Final = 2**24

_BEST_BLOCK: Final = 512
_TOP_BLOCK: Final = 64
_LOW: Final = 2**32 - 1


def block_maxima(logits: torch.Tensor, width: int) -> torch.Tensor:
    """Return the maximum of each block of ``width`` tokens, [n, blocks]; the last block may be short."""
    vocab = logits.shape[-1]
    whole = vocab // width * width
    maxima = torch.unflatten(logits[:, :whole], 1, (-1, width)).amax(-1) if whole else logits[:, :0]
    if whole == vocab:
        return maxima
    return torch.cat((maxima, logits[:, whole:].amax(-1, keepdim=True)), -1)


def _tied(device: torch.device, vocab: int, rows: int) -> torch.Tensor:
    """Return logits in which most tokens share their value with others."""
    steps = torch.arange(rows * vocab, device=device).view(rows, vocab)
    return (steps * 7919 % 13).to(torch.float32)


def _best_inputs(dtype: torch.dtype, device: torch.device, seed: int) -> Iterator[OpCall]:
    values = Values(dtype, device, seed)
    yield OpCall("5x1000", (values.normal(5, 1000, std=4.0),))
    yield OpCall("1x1", (values.normal(1, 1),))
    yield OpCall("ties", (_tied(device, 1100, 3).to(dtype),))
    masked = values.normal(3, 1500)
    masked[:, :1490] = -torch.inf
    yield OpCall("short-block", (masked,))
    yield OpCall("nothing-left", (torch.full((2, 700), -torch.inf, dtype=dtype, device=device),))


@op(_best_inputs)
def best_token(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return each row's most likely token, the lowest id among equals, and its logit.

    A row that holds a NaN yields the first one, so that a logit that is not finite tells that the row cannot be sampled.

    Args:
        logits: [n, vocab] of any float type.

    Returns:
        ``(tokens int64 [n], logits float32 [n])``.
    """
    vocab = logits.shape[-1]
    block = block_maxima(logits, _BEST_BLOCK).argmax(-1, keepdim=True)
    # Past the vocabulary's end the last token repeats; the first of equals wins, so no repeat is returned.
    ids = (block * _BEST_BLOCK + torch.arange(_BEST_BLOCK, device=logits.device)).clamp_(max=vocab - 1)
    inside = logits.gather(-1, ids)
    within = inside.argmax(-1, keepdim=True)
    return ids.gather(-1, within).squeeze(-1), inside.gather(-1, within).squeeze(-1).float()


def _keys(values: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Return int64 keys that are all different and whose order is: larger value first, then lower id."""
    # Adding zero makes -0.0 and 0.0 one value; flipping the low bits of negatives orders float bits like integers.
    bits = (values + 0.0).view(torch.int32)
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return (ordered.long() << 32) | (_LOW - ids)


def _top_k_inputs(dtype: torch.dtype, device: torch.device, seed: int) -> Iterator[OpCall]:
    values = Values(dtype, device, seed)
    yield OpCall("4x5000-of-9", (values.normal(4, 5000, std=4.0), 9))
    yield OpCall("whole", (values.normal(2, 300), 300))
    yield OpCall("ties", (_tied(device, 4100, 3), 20))
    yield OpCall("none", (values.normal(2, 300), 0))


@op(_top_k_inputs, dtypes=FLOAT32)
def top_k_tokens(logits: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the ``k`` most likely tokens of each row in order, the lowest id first among equals.

    Args:
        logits: float32 [n, vocab].
        k: 0 up to ``vocab``.

    Returns:
        ``(logits float32 [n, k], ids int64 [n, k])``.
    """
    rows, vocab = logits.shape
    if k * _TOP_BLOCK * 2 >= vocab:
        ids = torch.arange(vocab, device=logits.device)
        keys = _keys(logits, ids)
    else:
        maxima = block_maxima(logits, _TOP_BLOCK)
        blocks = _keys(maxima, torch.arange(maxima.shape[-1], device=logits.device)).topk(k, -1).values
        first = (_LOW - (blocks & _LOW)) * _TOP_BLOCK
        ids = (first.unsqueeze(-1) + torch.arange(_TOP_BLOCK, device=logits.device)).view(rows, -1)
        inside = logits.gather(-1, ids.clamp(max=vocab - 1))
        keys = _keys(inside, ids).masked_fill_(ids >= vocab, torch.iinfo(torch.int64).min)
    chosen = _LOW - (keys.topk(k, -1).values & _LOW)
    return logits.gather(-1, chosen), chosen


def _top_logprobs_inputs(dtype: torch.dtype, device: torch.device, seed: int) -> Iterator[OpCall]:
    values = Values(dtype, device, seed)
    logits = torch.stack([values.permutation(400) for _ in range(5)]).to(dtype) / 40
    yield OpCall("5x400", (logits, values.integers(400, 5), 7))
    yield OpCall("own", (logits, values.integers(400, 5), 0))
    yield OpCall("whole", (logits, values.integers(400, 5), 400))
    yield OpCall("ties", (_tied(device, 400, 5), values.integers(400, 5), 30))


@op(_top_logprobs_inputs, dtypes=FLOAT32)
def top_logprobs(logits: torch.Tensor, tokens: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the log-probabilities of each row's token and of its ``k`` most likely tokens.

    Args:
        logits: float32 [n, vocab].
        tokens: int64 [n].
        k: 0 or more, at most ``vocab``.

    Returns:
        ``(ids int64 [n, 1 + k], values float32 [n, 1 + k], ranks int64 [n])``: column 0 is the token, then the most
        likely ones in order, the lowest id first among equals; a rank is 1 plus the number of tokens that are more
        likely.
    """
    own = logits.gather(-1, tokens.unsqueeze(-1))
    ids = torch.cat((tokens.unsqueeze(-1), top_k_tokens(logits, k)[1]), -1)
    ranks = [(part > bound).sum(-1) for part, bound in zip(_chunks(logits), _chunks(own, logits), strict=True)]
    return ids, gather_logprobs(logits, ids), torch.cat(ranks) + 1


def _gather_inputs(dtype: torch.dtype, device: torch.device, seed: int) -> Iterator[OpCall]:
    values = Values(dtype, device, seed)
    yield OpCall("4x300", (values.normal(4, 300, std=3.0), values.integers(300, 4, 6)))
    masked = values.normal(2, 100)
    masked[:, 5:] = -torch.inf
    yield OpCall("masked", (masked, values.integers(100, 2, 8)))


@op(_gather_inputs, dtypes=FLOAT32)
def gather_logprobs(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Return the log-probabilities float32 [n, m] of chosen ``ids`` (int64 [n, m]) under ``logits`` float32 [n, vocab]."""
    parts = zip(_chunks(logits), _chunks(ids, logits), strict=True)
    return torch.cat([torch.log_softmax(part, -1).gather(-1, wanted) for part, wanted in parts])


def _chunks(rows: torch.Tensor, like: torch.Tensor | None = None) -> tuple[torch.Tensor, ...]:
    """Split ``rows`` as logits (``like``, or ``rows`` themselves) are split to bound temporary memory."""
    vocab = (rows if like is None else like).shape[-1]
    return torch.split(rows, max(1, CHUNK // vocab))
