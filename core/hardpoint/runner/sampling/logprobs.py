"""Log-probabilities on their way to the host."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from hardpoint.contract.device import Device, HostCopy
from hardpoint.contract.step import Int32s, TokenLogprobs
from hardpoint.runner.sampling.draws import SMALL
from hardpoint.runner.sampling.rows import LOGPROBS, Int64s, Rows
from hardpoint.runner.sampling.transfer import Uploads

if TYPE_CHECKING:
    from hardpoint.ops import OpTable


@dataclass(frozen=True, slots=True)
class LogprobsCopy:
    """Log-probabilities of ``t`` tokens while they are copied to the host."""

    token_ids: HostCopy
    values: HostCopy
    ranks: HostCopy

    @classmethod
    def start(cls, device: Device, ids: torch.Tensor, values: torch.Tensor, ranks: torch.Tensor) -> LogprobsCopy:
        """Start the copies of int64[t, 1 + k], float32[t, 1 + k] and int64[t]."""
        return cls(device.to_host(ids.int()), device.to_host(values), device.to_host(ranks.int()))

    def result(self) -> TokenLogprobs:
        """Wait for the copies."""
        return TokenLogprobs(token_ids=self.token_ids.result(), values=self.values.result(), ranks=self.ranks.result())


@dataclass(frozen=True, slots=True)
class LogprobGroup:
    """Rows of one batch whose log-probabilities are computed together.

    Attributes:
        at: batch positions.
        index: the same on the device.
        widths: columns that each row asked for beside its own token.
        k: most likely tokens to report, the largest of ``widths``.
        ids: int64[m, k] on the device, ids to report instead of the most likely ones; short rows repeat an id.
    """

    at: Int64s
    index: torch.Tensor
    widths: list[int]
    k: int
    ids: torch.Tensor | None

    def compute(
        self, logits: torch.Tensor, tokens: torch.Tensor, ops: OpTable
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return ``(ids, values, ranks)`` of the group's ``tokens`` under its own ``logits`` [m, vocab]."""
        own = tokens.index_select(0, self.index)
        if self.ids is None:
            return ops.top_logprobs(logits, own, self.k)
        ids, values, ranks = ops.top_logprobs(logits, own, 0)
        return torch.cat((ids, self.ids), -1), torch.cat((values, ops.gather_logprobs(logits, self.ids)), -1), ranks


def logprob_groups(rows: Rows, batch: Int32s, upload: Uploads) -> list[LogprobGroup]:
    """Return the groups of the rows in ``batch`` that asked for log-probabilities."""
    at = np.flatnonzero(rows.flags[batch] & LOGPROBS)
    if not len(at):
        return []
    listed = np.array([rows.lists[int(row)].logprob_ids is not None for row in batch[at]], np.bool_)
    groups = [_listed(rows, batch, at[listed], upload)] if listed.any() else []
    ranked = at[~listed]
    asked = rows.logprobs[batch[ranked]]
    sizes = np.where(asked <= SMALL, 0, asked)
    for size in np.unique(sizes):
        chosen = sizes == size
        widths = asked[chosen].tolist()
        groups.append(LogprobGroup(ranked[chosen], upload(ranked[chosen]), widths, max(widths), None))
    return groups


def _listed(rows: Rows, batch: Int32s, at: Int64s, upload: Uploads) -> LogprobGroup:
    lists = [ids for row in batch[at] if (ids := rows.lists[int(row)].logprob_ids) is not None]
    widths = [len(ids) for ids in lists]
    padded = np.stack([np.pad(ids, (0, max(widths) - len(ids)), mode="edge") for ids in lists])
    return LogprobGroup(at, upload(at), widths, 0, upload(padded))


def split(group: LogprobGroup, found: TokenLogprobs) -> dict[int, TokenLogprobs]:
    """Return each row's own log-probabilities by batch position."""
    return {
        int(at): TokenLogprobs(
            token_ids=found.token_ids[i : i + 1, : 1 + width],
            values=found.values[i : i + 1, : 1 + width],
            ranks=found.ranks[i : i + 1],
        )
        for i, (at, width) in enumerate(zip(group.at, group.widths, strict=True))
    }


def prompt_logprobs(
    logits: Callable[[torch.Tensor], torch.Tensor],
    hidden: torch.Tensor,
    token_ids: torch.Tensor,
    k: int,
    *,
    step: int,
    device: Device,
    ops: OpTable,
) -> Callable[[], TokenLogprobs]:
    """Compute ``step`` tokens at a time; see :meth:`hardpoint.runner.sampling.Sampler.prompt_logprobs`."""
    parts = [
        LogprobsCopy.start(device, *ops.top_logprobs(logits(rows), tokens, k))
        for rows, tokens in zip(torch.split(hidden, step), torch.split(token_ids, step), strict=True)
    ]

    def finish() -> TokenLogprobs:
        found = [part.result() for part in parts]
        return TokenLogprobs(
            token_ids=np.concatenate([part.token_ids for part in found]),
            values=np.concatenate([part.values for part in found]),
            ranks=np.concatenate([part.ranks for part in found]),
        )

    return finish
