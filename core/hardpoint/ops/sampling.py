"""Sampling on the device: logits are float32 [n, vocab], parameters are one value per row.

Ops that change logits work in place: a step's logits are the largest tensor that sampling touches.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import torch

from hardpoint.ops.registry import OpCall, op
from hardpoint.ops.values import Values

_FLOAT32: Final = (torch.float32,)


def _temperature_inputs(dtype: torch.dtype, device: torch.device, seed: int) -> Iterator[OpCall]:
    values = Values(dtype, device, seed)
    temperature = values.uniform(6, low=0.05, high=2.0)
    temperature[2] = 0.0
    yield OpCall("6x1000", (values.normal(6, 1000, std=4.0), temperature))
    yield OpCall("none", (values.normal(0, 10), values.uniform(0)))


@op(_temperature_inputs, dtypes=_FLOAT32, in_place=True)
def apply_temperature(logits: torch.Tensor, temperature: torch.Tensor) -> torch.Tensor:
    """Divide each row by its temperature, in place; rows of temperature 0 stay as they are.

    Args:
        logits: float32 [n, vocab].
        temperature: float32 [n].

    Returns:
        ``logits``.
    """
    return logits.div_(torch.where(temperature > 0, temperature, 1.0).unsqueeze(-1))


def _penalty_inputs(dtype: torch.dtype, device: torch.device, seed: int) -> Iterator[OpCall]:
    values = Values(dtype, device, seed)
    vocab, table = 500, 9
    seen = values.uniform(table, vocab) < 0.2
    counts = (values.integers(8, table, vocab) - 4).clamp(min=0).int()
    rows = values.permutation(table)[:5]
    presence, frequency = values.uniform(5, low=-2, high=2), values.uniform(5, low=-2, high=2)
    repetition = values.uniform(5, low=0.5, high=2)
    yield OpCall("5of9", (values.normal(5, vocab), rows, seen, counts, presence, frequency, repetition))
    off = (torch.zeros_like(presence), torch.zeros_like(presence), torch.ones_like(presence))
    yield OpCall("neutral", (values.normal(5, vocab), rows, seen, counts, *off))


@op(_penalty_inputs, dtypes=_FLOAT32, in_place=True)
def apply_penalties(
    logits: torch.Tensor,
    rows: torch.Tensor,
    in_prompt: torch.Tensor,
    counts: torch.Tensor,
    presence: torch.Tensor,
    frequency: torch.Tensor,
    repetition: torch.Tensor,
) -> torch.Tensor:
    """Apply the three penalties, in place, with vLLM's meaning.

    Tokens of prompt and output: positive logits are divided by ``repetition``, others multiplied. Tokens of the output:
    ``frequency`` times their count and ``presence`` once are subtracted.

    Args:
        logits: float32 [n, vocab].
        rows: int64 [n], where in the next two tables each row's tokens are.
        in_prompt: bool [rows, vocab], whether the prompt has the token.
        counts: integers [rows, vocab], how often the output has it.
        presence, frequency, repetition: float32 [n]; 0, 0 and 1 change nothing.

    Returns:
        ``logits``.
    """
    count = counts.index_select(0, rows)
    known = in_prompt.index_select(0, rows) | (count > 0)
    factor = torch.where(known, repetition.unsqueeze(-1), 1.0)
    logits.copy_(torch.where(logits > 0, logits / factor, logits * factor))
    logits.sub_(frequency.unsqueeze(-1) * count)
    return logits.sub_(presence.unsqueeze(-1) * (count > 0))


def _mask_inputs(dtype: torch.dtype, device: torch.device, seed: int) -> Iterator[OpCall]:
    values = Values(dtype, device, seed)
    logits = torch.stack([values.permutation(997) for _ in range(8)]).to(dtype) / 50
    k = torch.tensor([0, 1, 5, 50, 2000, 0, 996, 40], device=device)
    p = torch.tensor([0.9, 1.0, 0.5, 0.95, 0.3, 1.0, 1e-6, 0.8], device=device)
    min_p = torch.tensor([0.0, 0.0, 0.3, 0.05, 0.0, 1.0, 0.0, 0.01], device=device)
    yield OpCall("mixed", (logits.clone(), k, p, min_p))
    yield OpCall("top-k", (logits.clone(), k, None, None))
    yield OpCall("top-p", (logits.clone(), None, p, None))
    yield OpCall("min-p", (logits.clone(), None, None, min_p))
    masked = logits.masked_fill(values.uniform(8, 997) < 0.9, -torch.inf)
    yield OpCall("masked-before", (masked, k, p, min_p))
    yield OpCall("off", (logits.clone(), torch.zeros_like(k), torch.ones_like(p), torch.zeros_like(min_p)))


@op(_mask_inputs, dtypes=_FLOAT32, in_place=True)
def mask_top_k_top_p(
    logits: torch.Tensor, k: torch.Tensor | None, p: torch.Tensor | None, min_p: torch.Tensor | None
) -> torch.Tensor:
    """Set logits outside min-p, then top-k, then top-p to minus infinity, in place.

    Each limit sees the distribution that the one before it left, renormalised. Tokens as likely as the last one that
    top-k keeps are kept too. The most likely token always stays.

    Args:
        logits: float32 [n, vocab], after temperature.
        k: integers [n], most likely tokens kept; 0 and ``vocab`` or more keep all. ``None``: no row limits it.
        p: float32 [n], the smallest set of most likely tokens with at least this mass stays; 1 keeps all.
        min_p: float32 [n], tokens less likely than this fraction of the most likely one go; 0 keeps all.

    Returns:
        ``logits``.
    """
    if min_p is not None:
        # p(token) < min_p * p(best), written in logarithms.
        floor = logits.amax(-1, keepdim=True) + min_p.log().unsqueeze(-1)
        logits.masked_fill_(logits < floor, -torch.inf)
    if k is None and p is None:
        return logits
    ascending, order = logits.sort(-1)
    vocab = logits.shape[-1]
    if k is not None:
        kept = torch.where((k <= 0) | (k > vocab), vocab, k).long()
        threshold = ascending.gather(-1, (vocab - kept).unsqueeze(-1))
        ascending.masked_fill_(ascending < threshold, -torch.inf)
    if p is not None:
        below = torch.softmax(ascending, -1).cumsum(-1)
        outside = below <= (1 - p).unsqueeze(-1)
        outside &= (p < 1).unsqueeze(-1)
        outside[:, -1] = False
        ascending.masked_fill_(outside, -torch.inf)
    return logits.scatter_(-1, order, ascending)


def _sample_inputs(dtype: torch.dtype, device: torch.device, seed: int) -> Iterator[OpCall]:
    values = Values(dtype, device, seed)
    probs = torch.softmax(values.normal(16, 301, std=3.0), -1)
    yield OpCall("16x301", (probs, values.uniform(16)))
    sparse = torch.zeros(3, 64, device=device)
    sparse[0, 5] = 1.0
    sparse[1, 0] = sparse[1, 63] = 0.5
    sparse[2, 63] = 1.0
    yield OpCall("sparse", (sparse, torch.tensor([0.0, 0.75, 1.0 - 2**-24], device=device)))
    yield OpCall("first", (sparse, torch.zeros(3, device=device)))


@op(_sample_inputs, dtypes=_FLOAT32)
def sample_inverse_cdf(probs: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """Draw one token per row: the first whose cumulated probability exceeds ``uniform`` times the row's sum.

    A token of probability 0 is never drawn. Sums run in float64, so the draw does not depend on who shares the batch.

    Args:
        probs: float32 [n, vocab], not negative, each row's sum above 0.
        uniform: float32 or float64 [n] in [0, 1).

    Returns:
        int64 [n].
    """
    cumulated = probs.cumsum(-1, dtype=torch.float64)
    total = cumulated[:, -1:]
    below = torch.nextafter(total, torch.zeros_like(total))
    target = torch.minimum(uniform.unsqueeze(-1).double() * total, below)
    return torch.searchsorted(cumulated, target, right=True).squeeze(-1)


def _top_inputs(dtype: torch.dtype, device: torch.device, seed: int) -> Iterator[OpCall]:
    values = Values(dtype, device, seed)
    logits = torch.stack([values.permutation(400) for _ in range(5)]).to(dtype) / 40
    yield OpCall("5x400", (logits, values.integers(400, 5), 7))
    yield OpCall("own", (logits, values.integers(400, 5), 0))


@op(_top_inputs, dtypes=_FLOAT32)
def top_logprobs(logits: torch.Tensor, tokens: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the log-probabilities of each row's token and of its ``k`` most likely tokens.

    Args:
        logits: float32 [n, vocab].
        tokens: int64 [n].
        k: 0 or more, at most ``vocab``.

    Returns:
        ``(ids int64 [n, 1 + k], values float32 [n, 1 + k], ranks int64 [n])``: column 0 is the token, then the most
        likely ones in order; a rank is 1 plus the number of tokens that are more likely.
    """
    logprobs = torch.log_softmax(logits, -1)
    own = logprobs.gather(-1, tokens.unsqueeze(-1))
    ranks = (logprobs > own).sum(-1) + 1
    values, ids = logprobs.topk(k, -1)
    return torch.cat((tokens.unsqueeze(-1), ids), -1), torch.cat((own, values), -1), ranks


def _gather_inputs(dtype: torch.dtype, device: torch.device, seed: int) -> Iterator[OpCall]:
    values = Values(dtype, device, seed)
    yield OpCall("4x300", (values.normal(4, 300, std=3.0), values.integers(300, 4, 6)))


@op(_gather_inputs, dtypes=_FLOAT32)
def gather_logprobs(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Return the log-probabilities float32 [n, m] of chosen ``ids`` (int64 [n, m]) under ``logits`` float32 [n, vocab]."""
    return logits.gather(-1, ids) - logits.logsumexp(-1, keepdim=True)
