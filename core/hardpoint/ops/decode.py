"""The two ends of a decode step: from rows of the persistent batch to what a forward pass reads, and from sampled tokens
back to the rows.

A row's newest two tokens are kept, the one at position ``p`` of its sequence at ``newest[row, p % 2]``. A step reads one
place and writes the other, so running it again changes nothing, which is what a prepared step promises.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import torch

from hardpoint.ops.registry import OpCall, op
from hardpoint.ops.values import Values

_INT64: Final = (torch.float32,)


def _input_calls(dtype: torch.dtype, device: torch.device, seed: int) -> Iterator[OpCall]:
    values = Values(dtype, device, seed)
    for label, size, width in (("one", 1, 3), ("seven", 7, 40), ("wide", 3, 2600)):
        rows = values.permutation(9)[:size].int()
        computed = values.integers(16 * width, size).int()
        computed[0] = 16 * width - 1
        blocks = torch.zeros((size, width), dtype=torch.int32, device=device)
        newest, table = values.integers(1000, 9, 2), values.integers(5000, 9, width).int()
        yield OpCall(label, (blocks, rows, computed, newest, table, 16))
    yield OpCall("blocks-of-3", (blocks, rows, computed // 8, newest, table, 3))


@op(_input_calls, dtypes=_INT64)
def decode_inputs(
    blocks: torch.Tensor,
    rows: torch.Tensor,
    computed: torch.Tensor,
    newest: torch.Tensor,
    table: torch.Tensor,
    block_size: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gather what a step reads in which each row decodes one token.

    Args:
        blocks: int32 [n, width], overwritten where a row has blocks for its tokens, otherwise left as it is.
        rows: int32 [n], rows of ``newest`` and ``table``.
        computed: int32 [n], tokens whose keys and values are in the cache: the new token's position, below
            ``width * block_size``.
        newest: int64 [rows of the batch, 2], see the module's text.
        table: int32 [rows of the batch, width], block tables.
        block_size: tokens per block.

    Returns:
        ``(token ids int64 [n], positions int64 [n], context lengths after the step int32 [n], slots int64 [n], blocks)``.
    """
    row, positions = rows.long(), computed.long()
    own = table.index_select(0, row)
    needed = positions // block_size + 1
    there = torch.arange(table.shape[1], device=table.device) < needed.unsqueeze(-1)
    blocks.copy_(torch.where(there, own, blocks))
    last = own.gather(1, needed.unsqueeze(-1) - 1).squeeze(-1).long()
    slots = last * block_size + positions % block_size
    return newest[row, positions & 1], positions, computed + 1, slots, blocks


def _keep_calls(dtype: torch.dtype, device: torch.device, seed: int) -> Iterator[OpCall]:
    values = Values(dtype, device, seed)
    for label, size in (("one", 1), ("many", 300)):
        newest = values.integers(1000, 301, 2)
        results = torch.full((3, 310), -7, dtype=torch.int32, device=device)
        rows, positions = values.permutation(301)[:size].int(), values.integers(50, size).int()
        turn = torch.tensor([2], dtype=torch.int32, device=device)
        best = values.normal(size)
        best[::3] = torch.nan
        best[1::5] = -torch.inf
        best[2::7] = torch.inf
        yield OpCall(label, (newest, results, turn, rows, positions, values.integers(1000, size), best))


@op(_keep_calls, dtypes=_INT64)
def keep_tokens(
    newest: torch.Tensor,
    results: torch.Tensor,
    turn: torch.Tensor,
    rows: torch.Tensor,
    positions: torch.Tensor,
    tokens: torch.Tensor,
    best: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Keep sampled tokens as the rows' newest ones and write them where the host reads them.

    Args:
        newest: int64 [rows of the batch, 2], see the module's text; written at ``rows``.
        results: int32 [turns, at least n]; the first ``n`` of ``turn`` become the tokens, -1 where ``best`` is not finite.
        turn: int32 [1].
        rows: int32 [n], each once (a row that holds no sequence may come several times).
        positions: int32 [n], the tokens' places in their sequences.
        tokens: int64 [n].
        best: float32 [n], the largest logit of each row.

    Returns:
        ``(newest, results)``.
    """
    newest[rows.long(), positions.long() & 1] = tokens
    told = torch.where(torch.isfinite(best), tokens, -1).int()
    results[:, : len(tokens)].index_copy_(0, turn.long(), told.unsqueeze(0))
    return newest, results
