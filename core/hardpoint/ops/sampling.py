"""Sampling on the device: logits are [n, vocab], parameters are one value per row. What draws takes logits of any float type.

A draw is exact and depends on its own row only. Each token's weight is ``exp((logit - best) / temperature)``, at most 1,
as a whole number of 2**-40. Sums of whole numbers are the same in every order, so neither the batch nor the way in which
a device adds changes a draw, and no probability is lost in a long float sum. The draw is the token at which the running
sum of weights exceeds ``uniform`` times their total: inverse transform sampling, in a fixed order of tokens. A token of
weight 0 is never drawn.

Limits apply in this order: min-p, top-k, top-p, each to what the one before left. Min-p keeps tokens of at least that
fraction of the most likely one's probability. Top-k keeps exactly ``k`` tokens, the lowest ids among equals. Top-p keeps
a token when the tokens more likely than it have less than ``p`` of the mass: the smallest set that reaches ``p``, and
whatever is as likely as its last token. The most likely token always stays.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import torch

from hardpoint.ops.ranking import FLOAT32, block_maxima, top_k_tokens
from hardpoint.ops.registry import OpCall, op
from hardpoint.ops.values import Values

#: Weight of the most likely token. A vocabulary of 2**22 tokens of this weight still sums to less than 2**63.
_ONE: Final = 2.0**40
_BLOCK: Final = 256
#: Weights held at once while drawing from whole vocabularies: 4 MiB of int64, and a few more tensors of its shape.
_CHUNK: Final = 2**19

#: Largest vocabulary that is sorted to find top-p's last token.
_SORTED: Final = 2**12
# In larger ones it is selected: a float32 weight's bits, read as an integer, order weights. They are searched in two steps:
# the upper bits, of which those from 2**-40 up to 1 differ, then the lower ones.
_LOW_BITS: Final = 14
_FIRST: Final = (127 - 40) << (23 - _LOW_BITS)
_UPPER: Final = (127 << (23 - _LOW_BITS)) - _FIRST + 1


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


@op(_penalty_inputs, dtypes=FLOAT32, in_place=True)
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
    step = max(1, _CHUNK // logits.shape[-1])
    for first in range(0, len(logits), step):
        part = slice(first, first + step)
        own, count, factor = logits[part], counts.index_select(0, rows[part]), repetition[part].unsqueeze(-1)
        sampled = count > 0
        known = in_prompt.index_select(0, rows[part]) | sampled
        own.copy_(torch.where(known, torch.where(own > 0, own / factor, own * factor), own))
        own.sub_(frequency[part].unsqueeze(-1) * count).sub_(presence[part].unsqueeze(-1) * sampled)
    return logits


def _full_inputs(dtype: torch.dtype, device: torch.device, seed: int) -> Iterator[OpCall]:
    values = Values(dtype, device, seed)
    logits, uniform = values.normal(16, 1301, std=3.0), values.uniform(16).double()
    temperature = values.uniform(16, low=0.2, high=2.0)
    min_p, top_p = values.uniform(16, high=0.2), values.uniform(16, low=0.1).double()
    min_p[3], top_p[4] = 0.0, 1.0
    yield OpCall("large", (values.normal(3, 9001, std=3.0), uniform[:3], temperature[:3], None, top_p[:3]))
    yield OpCall("plain", (logits, uniform, temperature, None, None))
    yield OpCall("min-p", (logits, uniform, temperature, min_p, None))
    yield OpCall("top-p", (logits, uniform, temperature, None, top_p))
    yield OpCall("both", (logits, uniform, temperature, min_p, top_p))
    masked = logits.masked_fill(values.uniform(16, 1301) < 0.9, -torch.inf)
    yield OpCall("masked", (masked, uniform, temperature, min_p, top_p))
    edges = torch.tensor([0.0, 1.0 - 2**-53], dtype=torch.float64, device=device).repeat(8)
    yield OpCall("edges", (logits, edges, temperature, None, None))


@op(_full_inputs)
def sample_full(
    logits: torch.Tensor,
    uniform: torch.Tensor,
    temperature: torch.Tensor,
    min_p: torch.Tensor | None,
    top_p: torch.Tensor | None,
) -> torch.Tensor:
    """Draw one token per row from the whole vocabulary, in order of ids. See the module's text for the exact meaning.

    A row whose largest logit is not finite yields some token of the vocabulary.

    Args:
        logits: [n, vocab].
        uniform: float64 [n] in [0, 1).
        temperature: float32 [n], above 0.
        min_p: float32 [n] in [0, 1]; ``None``: no row has one.
        top_p: float64 [n] in (0, 1]; ``None``: no row has one.

    Returns:
        int64 [n].
    """
    best = block_maxima(logits, _BLOCK).amax(-1, keepdim=True).float()
    step = max(1, _CHUNK // max(logits.shape[-1], _UPPER))
    tokens = []
    for first in range(0, len(logits), step):
        part = slice(first, first + step)
        weights = _weights(logits[part].float(), best[part], temperature[part], None if min_p is None else min_p[part])
        whole = _whole(weights)
        if top_p is not None:
            inside = whole[:, : weights.shape[-1]]
            inside.masked_fill_(weights < _top_p_weight(weights, inside, top_p[part]), 0)
        tokens.append(_draw(whole, uniform[part]))
    return torch.cat(tokens).clamp_(max=logits.shape[-1] - 1) if tokens else uniform.long()


def _top_k_inputs(dtype: torch.dtype, device: torch.device, seed: int) -> Iterator[OpCall]:
    values = Values(dtype, device, seed)
    logits, uniform = values.normal(16, 1301, std=3.0), values.uniform(16).double()
    temperature = values.uniform(16, low=0.2, high=2.0)
    min_p, top_p = values.uniform(16, high=0.2), values.uniform(16, low=0.1).double()
    top_k = values.integers(40, 16, low=1)
    yield OpCall("top-k", (logits, uniform, temperature, None, None, top_k, 40))
    yield OpCall("all", (logits, uniform, temperature, min_p, top_p, top_k, 39))
    yield OpCall("ties", (torch.round(logits), uniform, temperature, None, top_p, top_k, 40))


@op(_top_k_inputs)
def sample_top_k(
    logits: torch.Tensor,
    uniform: torch.Tensor,
    temperature: torch.Tensor,
    min_p: torch.Tensor | None,
    top_p: torch.Tensor | None,
    top_k: torch.Tensor,
    largest: int,
) -> torch.Tensor:
    """Draw one token per row from its ``top_k`` most likely ones, in order of likelihood, then id.

    A row whose largest logit is not finite yields some token of the vocabulary.

    Args:
        logits: [n, vocab].
        uniform: float64 [n] in [0, 1).
        temperature: float32 [n], above 0.
        min_p: float32 [n] in [0, 1]; ``None``: no row has one.
        top_p: float64 [n] in (0, 1]; ``None``: no row has one.
        top_k: int64 [n], 1 up to ``largest``.
        largest: a bound on ``top_k`` that the host knows, at most ``vocab``; it does not change a draw.

    Returns:
        int64 [n].
    """
    values, ids = top_k_tokens(logits.float(), largest)
    weights = _weights(values, values[:, :1], temperature, min_p)
    column = torch.arange(largest, device=logits.device)
    whole = weights.mul_(_ONE).long().masked_fill_(column >= top_k.unsqueeze(-1), 0)
    if top_p is not None:
        above = whole.cumsum(-1) - whole
        last = (above < _mass(whole, top_p)).sum(-1, keepdim=True) - 1
        whole.masked_fill_(values < values.gather(-1, last.clamp_(min=0)), 0)
    at = (whole.cumsum(-1) <= _target(whole.sum(-1), uniform).unsqueeze(-1)).sum(-1, keepdim=True)
    return ids.gather(-1, at.clamp_(max=largest - 1)).squeeze(-1)


def _weights(
    logits: torch.Tensor, best: torch.Tensor, temperature: torch.Tensor, min_p: torch.Tensor | None
) -> torch.Tensor:
    """Return float32 weights relative to the best token, 0 below min-p."""
    # Subtracting before dividing keeps the quotient from overflowing upwards at any temperature.
    weights = logits.sub(best).div_(temperature.unsqueeze(-1)).exp_()
    return weights if min_p is None else weights.masked_fill_(weights < min_p.unsqueeze(-1), 0.0)


def _whole(weights: torch.Tensor) -> torch.Tensor:
    """Return weights as whole numbers, int64, padded with zeros to full blocks."""
    rows, vocab = weights.shape
    whole = torch.empty((rows, -(-vocab // _BLOCK) * _BLOCK), dtype=torch.int64, device=weights.device)
    whole[:, vocab:] = 0
    # A power of two scales exactly, so that rounding happens once, downwards.
    whole[:, :vocab].copy_(weights * _ONE)
    return whole


def _mass(whole: torch.Tensor, top_p: torch.Tensor) -> torch.Tensor:
    """Return the mass that ``top_p`` asks for, int64 [n, 1], at least 1; all of it for 1, which floats may not hold."""
    total = whole.sum(-1)
    part = (total.double() * top_p).ceil_().long()
    return torch.where(top_p < 1.0, part, total).clamp_(min=1).unsqueeze(-1)


def _top_p_weight(weights: torch.Tensor, whole: torch.Tensor, top_p: torch.Tensor) -> torch.Tensor:
    """Return the smallest weight that top-p keeps, float32 [n, 1]."""
    mass = _mass(whole, top_p)
    if weights.shape[-1] <= _SORTED:
        ordered = weights.sort(-1, descending=True).values
        sizes = ordered.mul(_ONE).long()
        last = (sizes.cumsum(-1) - sizes < mass).sum(-1, keepdim=True) - 1
        return ordered.gather(-1, last.clamp_(min=0))
    bits = weights.view(torch.int32)
    upper = ((bits >> _LOW_BITS) - _FIRST).clamp_(0, _UPPER - 1).long()
    above = _mass_above(upper, whole, _UPPER)
    bucket = (above >= mass).sum(-1, keepdim=True).clamp_(max=_UPPER - 1)
    inside = whole.masked_fill(upper != bucket, 0)
    lower = (bits & (2**_LOW_BITS - 1)).long()
    within = (above.gather(-1, bucket) + _mass_above(lower, inside, 2**_LOW_BITS) >= mass).sum(-1, keepdim=True)
    return (((bucket + _FIRST) << _LOW_BITS) + within).int().view(torch.float32)


def _mass_above(bucket: torch.Tensor, whole: torch.Tensor, buckets: int) -> torch.Tensor:
    """Return for each bucket the mass in the buckets above it, int64 [n, buckets]."""
    sums = torch.zeros((len(whole), buckets), dtype=torch.int64, device=whole.device).scatter_add_(-1, bucket, whole)
    return sums.sum(-1, keepdim=True) - sums.cumsum(-1)


def _target(total: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """Return the point in [0, total) that ``uniform`` stands for."""
    return torch.minimum((uniform * total.double()).long(), total - 1)


def _draw(whole: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """Return the index at which the running sum exceeds its target: the block first, then inside it."""
    blocks = torch.unflatten(whole, -1, (-1, _BLOCK))
    sums = blocks.sum(-1)
    upto = sums.cumsum(-1)
    target = _target(upto[:, -1], uniform).unsqueeze(-1)
    block = (upto <= target).sum(-1, keepdim=True).clamp_(max=sums.shape[-1] - 1)
    rest = target - (upto.gather(-1, block) - sums.gather(-1, block))
    inside = blocks.gather(1, block.unsqueeze(-1).expand(-1, 1, _BLOCK)).squeeze(1)
    within = (inside.cumsum(-1) <= rest).sum(-1, keepdim=True).clamp_(max=_BLOCK - 1)
    return (block * _BLOCK + within).squeeze(-1)
