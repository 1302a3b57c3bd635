"""Allowed ids, forbidden ids, biases: changes to single logits, as flat indices into the step's logits."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from hardpoint.contract.step import Int32s
from hardpoint.runner.sampling.rows import MASKS, MIN_TOKENS, NO_IDS, Int64s, Rows
from hardpoint.runner.sampling.transfer import Uploads


@dataclass(frozen=True, slots=True)
class Masks:
    """Changes for the rows of one batch; ``None`` where no row has the feature. Indices are int64 on the device.

    Attributes:
        limited: [a], batch positions of rows that sample from a list; ``allowed``: the logits that these rows keep.
        banned: logits that become minus infinity.
        biased: logits to which ``bias`` (float32) is added.
    """

    limited: torch.Tensor | None
    allowed: torch.Tensor | None
    banned: torch.Tensor | None
    biased: torch.Tensor | None
    bias: torch.Tensor | None

    def restrict(self, logits: torch.Tensor) -> None:
        """Apply allowed and banned ids in place; ``logits`` is contiguous."""
        flat = logits.view(-1)
        if self.limited is not None and self.allowed is not None:
            kept = flat.index_select(0, self.allowed)
            logits.index_fill_(0, self.limited, -torch.inf)
            flat.index_copy_(0, self.allowed, kept)
        if self.banned is not None:
            flat.index_fill_(0, self.banned, -torch.inf)

    def add_bias(self, logits: torch.Tensor) -> None:
        """Add the biases in place; a forbidden token stays forbidden."""
        if self.biased is not None and self.bias is not None:
            logits.view(-1).index_add_(0, self.biased, self.bias)


def masks(rows: Rows, batch: Int32s, vocab_size: int, upload: Uploads) -> Masks | None:
    """Return the masks of the rows in ``batch``, ``None`` when there are none."""
    chosen = np.flatnonzero(rows.flags[batch] & MASKS)
    if not len(chosen):
        return None
    lists = [(int(at), rows.lists[int(batch[at])]) for at in chosen]
    limited = [at for at, row in lists if row.allowed is not None]
    biased = [row.bias for _, row in lists if len(row.bias_ids)]
    return Masks(
        limited=upload(np.array(limited, np.int64)) if limited else None,
        allowed=_upload(((at, row.allowed) for at, row in lists if row.allowed is not None), vocab_size, upload),
        banned=_upload(((at, row.banned) for at, row in lists), vocab_size, upload),
        biased=_upload(((at, row.bias_ids) for at, row in lists), vocab_size, upload),
        bias=upload(np.concatenate(biased)) if biased else None,
    )


class StopMask:
    """Keeps rows from sampling end and stop tokens while they are short of ``min_tokens``."""

    def __init__(self, rows: Rows, batch: Int32s, vocab_size: int, upload: Uploads) -> None:
        self._at = np.flatnonzero(rows.flags[batch] & MIN_TOKENS)
        self._from = rows.stops_from[batch[self._at]]
        self._ids = [rows.lists[int(row)].stops for row in batch[self._at]]
        self._vocab_size, self._upload = vocab_size, upload
        self._active: bytes = b""
        self._indices: torch.Tensor | None = None

    def apply(self, logits: torch.Tensor, num_tokens: Int32s) -> None:
        """Mask in place; ``logits`` is contiguous, ``num_tokens`` the lengths before the new token."""
        if not len(self._at):
            return
        short = num_tokens[self._at] < self._from
        if (active := short.tobytes()) != self._active:
            chosen = ((int(self._at[i]), self._ids[i]) for i in np.flatnonzero(short))
            self._active, self._indices = active, _upload(chosen, self._vocab_size, self._upload)
        if self._indices is not None:
            logits.view(-1).index_fill_(0, self._indices, -torch.inf)


def _upload(pairs: Iterable[tuple[int, Int64s]], vocab_size: int, upload: Uploads) -> torch.Tensor | None:
    """Return the flat indices of (batch position, token ids) on the device, ``None`` when there are none."""
    indices = [NO_IDS, *(at * vocab_size + ids for at, ids in pairs)]
    flat = np.concatenate(indices)
    return upload(flat) if len(flat) else None
