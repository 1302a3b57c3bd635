"""Rows that sample at random, grouped by what they need, so that a row pays for its own limits only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import torch

from hardpoint.contract.step import Int32s
from hardpoint.runner.sampling.rows import MIN_P, RANDOM, TOP_K, TOP_P, Int64s, Rows
from hardpoint.runner.sampling.seeds import uniforms
from hardpoint.runner.sampling.transfer import Uploads

if TYPE_CHECKING:
    from hardpoint.ops import OpTable

#: Rows with a larger top-k or more log-probabilities are a group of their own: a group costs what its largest one does.
SMALL: Final = 128


@dataclass(frozen=True, slots=True)
class DrawGroup:
    """Rows that one op draws for; tensors are on the device.

    Attributes:
        index: int64[m], batch positions, ``None`` when it is the whole batch, in order.
        span: the group's part of the step's uniforms.
        temperature, min_p: float32[m]; ``min_p`` is ``None`` when no row has one.
        top_p: float64[m], ``None`` when no row has one.
        top_k: int64[m], ``None`` for rows that sample from the whole vocabulary.
        largest: of ``top_k``.
    """

    index: torch.Tensor | None
    span: slice
    temperature: torch.Tensor
    min_p: torch.Tensor | None
    top_p: torch.Tensor | None
    top_k: torch.Tensor | None
    largest: int

    def draw(self, logits: torch.Tensor, uniform: torch.Tensor, ops: OpTable) -> torch.Tensor:
        """Return the group's tokens, int64[m], from the whole batch's logits and uniforms."""
        own = logits if self.index is None else logits.index_select(0, self.index)
        uniform = uniform[self.span]
        if self.top_k is None:
            return ops.sample_full(own, uniform, self.temperature, self.min_p, self.top_p)
        return ops.sample_top_k(own, uniform, self.temperature, self.min_p, self.top_p, self.top_k, self.largest)


class Draws:
    """The random rows of one batch."""

    def __init__(self, rows: Rows, batch: Int32s, upload: Uploads) -> None:
        self._upload = upload
        self._groups: list[DrawGroup] = []
        flags, top_k = rows.flags[batch], rows.top_k[batch]
        random = flags & RANDOM > 0
        limited = flags & TOP_K > 0
        members: list[Int64s] = []
        first = 0
        for chosen in (
            random & ~limited & (flags & TOP_P == 0),
            random & ~limited & (flags & TOP_P > 0),
            random & limited & (top_k <= SMALL),
            random & limited & (top_k > SMALL),
        ):
            at = np.flatnonzero(chosen)
            if len(at):
                members.append(at)
                self._groups.append(self._group(rows, batch, at, slice(first, first + len(at))))
                first += len(at)
        self._at = np.concatenate(members) if members else np.empty(0, np.int64)
        self._streams = rows.streams[batch[self._at]]

    def __bool__(self) -> bool:
        return bool(self._groups)

    def into(self, tokens: torch.Tensor, logits: torch.Tensor, num_tokens: Int32s, ops: OpTable) -> torch.Tensor:
        """Return ``tokens`` (int64[n], the most likely ones) with the random rows' replaced by drawn ones."""
        uniform = self._upload(uniforms(self._streams, num_tokens[self._at]))
        for group in self._groups:
            drawn = group.draw(logits, uniform, ops)
            tokens = drawn if group.index is None else tokens.index_copy(0, group.index, drawn)
        return tokens

    def _group(self, rows: Rows, batch: Int32s, at: Int64s, span: slice) -> DrawGroup:
        chosen = batch[at]
        flags, top_k = rows.flags[chosen], rows.top_k[chosen]
        limited = bool(flags[0] & TOP_K)
        return DrawGroup(
            index=None if len(at) == len(batch) else self._upload(at),
            span=span,
            temperature=self._upload(rows.temperature[chosen]),
            min_p=self._upload(rows.min_p[chosen]) if (flags & MIN_P).any() else None,
            top_p=self._upload(rows.top_p[chosen]) if (flags & TOP_P).any() else None,
            top_k=self._upload(top_k) if limited else None,
            largest=int(top_k.max()) if limited else 0,
        )
