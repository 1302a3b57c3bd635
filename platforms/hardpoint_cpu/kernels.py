"""Attention over dense pieces, and merging pieces by the logarithms of their softmax denominators."""

from __future__ import annotations

from typing import Final

import torch

#: Scores of one call of the soft-capped path, in elements.
SCORE_ELEMENTS: Final = 1 << 22


def attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    scale: float,
    soft_cap: float | None = None,
    causal: bool = False,
    bias: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attend to one piece of the context. Every query must see at least one key.

    Args:
        q: [batch, heads, queries, head_size].
        k, v: [batch, heads, keys, head_size]; any strides but the last, 0 included.
        scale: factor on products.
        soft_cap: ``cap * tanh(score / cap)`` on scaled scores.
        causal: query i sees keys up to i; there are as many keys as queries.
        bias: float32, broadcast to [batch, heads, queries, keys], added to scores.

    Returns:
        ``(out in q's dtype [batch, heads, queries, head_size], float32 [batch, heads, queries])``, the latter the
        logarithm of the sum of the exponentials of the scores.
    """
    rows = q.shape[2]
    if soft_cap is None:
        if rows == 1 and q.dtype == torch.bfloat16:
            # One row takes a path without bfloat16 products, which is eight times slower than two rows.
            q, causal = q.expand(-1, -1, 2, -1), False
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q, k, v, 0.0, causal, attn_mask=bias, scale=scale
        )
        return out[:, :, :rows], lse[:, :, :rows]
    step = max(SCORE_ELEMENTS // (q.shape[0] * q.shape[1] * k.shape[2]), 1)
    outs, lses = [], []
    for low in range(0, rows, step):
        high = min(low + step, rows)
        seen = high if causal else k.shape[2]
        scores = torch.matmul(q[:, :, low:high], k[:, :, :seen].transpose(-1, -2)).float().mul_(scale)
        scores = scores.div_(soft_cap).tanh_().mul_(soft_cap)
        if causal:
            future = torch.arange(seen) > torch.arange(low, high)[:, None]
            scores.masked_fill_(future, -torch.inf)
        elif bias is not None:
            scores += bias[..., low:high, :] if bias.shape[-2] > 1 else bias
        lse = scores.logsumexp(-1)
        outs.append(torch.matmul(scores.sub_(lse.unsqueeze(-1)).exp_().to(v.dtype), v[:, :, :seen]))
        lses.append(lse)
    return torch.cat(outs, 2), torch.cat(lses, 2)


def merge(
    out: torch.Tensor, lse: torch.Tensor, other: torch.Tensor, other_lse: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return attention over two pieces from attention over each; shapes as :func:`attend` returns them, ``out`` float32."""
    total = torch.logaddexp(lse, other_lse)
    out = out.float() * (lse - total).exp().unsqueeze(-1) + other * (other_lse - total).exp().unsqueeze(-1)
    return out, total


def merge_by_request(
    parts: torch.Tensor, lse: torch.Tensor, requests: torch.Tensor, count: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Merge pieces of several contexts, any number of each.

    Args:
        parts: [pieces, heads, queries, head_size].
        lse: float32 [pieces, heads, queries].
        requests: int64 [pieces], below ``count``; each request has at least one piece.
        count: requests.

    Returns:
        ``(float32 [count, heads, queries, head_size], float32 [count, heads, queries])``.
    """
    rows = requests.view(-1, 1, 1).expand_as(lse)
    best = torch.full((count, *lse.shape[1:]), -torch.inf).scatter_reduce_(0, rows, lse, "amax")
    weights = (lse - best.index_select(0, requests)).exp_()
    total = torch.zeros_like(best).index_add_(0, requests, weights)
    weighted = parts.float() * weights.unsqueeze(-1)
    out = torch.zeros((count, *parts.shape[1:])).index_add_(0, requests, weighted)
    return out.div_(total.unsqueeze(-1)), best + total.log_()


def with_sinks(out: torch.Tensor, lse: torch.Tensor, sinks: torch.Tensor) -> torch.Tensor:
    """Return ``out`` with a logit per head in the softmax's denominator; ``sinks`` broadcasts against ``lse``."""
    return out * torch.sigmoid(lse - sinks).unsqueeze(-1)
