"""Token embedding."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F

from hardpoint.ops.registry import OpCall, op
from hardpoint.ops.values import Values


def _embed_inputs(dtype: torch.dtype, device: torch.device, seed: int) -> Iterator[OpCall]:
    values = Values(dtype, device, seed)
    table = values.normal(50, 32)
    yield OpCall("whole", (values.integers(50, 12), table))
    yield OpCall("shard", (values.integers(200, 40), table, 100))
    yield OpCall("int32", (values.integers(50, 3).int(), table, 0))
    yield OpCall("none", (values.integers(50, 0), table, 0))


@op(_embed_inputs)
def embed(ids: torch.Tensor, table: torch.Tensor, first: int | None = None) -> torch.Tensor:
    """Look up rows of an embedding table, or of one rank's part of it.

    Args:
        ids: integers [T].
        table: [rows, size]; row ``i`` belongs to id ``first + i``.
        first: id of the first row when the table is one of several; ids of other parts then give zeros, so that the
            sum over ranks is the embedding. ``None`` when the table is whole and every id is in it.

    Returns:
        [T, size] in the table's dtype.
    """
    if first is None:
        return F.embedding(ids, table)
    local = ids - first
    outside = (local < 0) | (local >= table.shape[0])
    return F.embedding(local.masked_fill(outside, 0), table).masked_fill(outside.unsqueeze(-1), 0)
