"""Fixed shapes: steps are filled up to the shapes that a device declared in ``BatchLimits.shapes``.

Padding is tokens, not requests: ids, positions and slots grow by tokens at position 0 whose slot is in the null block,
while the batch view still counts the real ones. What comes out for them is never looked at.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable

import torch
import torch.nn.functional as F

from hardpoint.contract.limits import BatchLimits
from hardpoint.contract.step import StepPlan


class Padding:
    """The shapes of a device that wants fixed ones; does nothing for any other.

    Args:
        limits: of a step.
        wanted: ``Capabilities.static_shapes``.
    """

    def __init__(self, limits: BatchLimits, wanted: bool) -> None:
        self._shapes = sorted(limits.shapes, key=lambda shape: shape.tokens) if wanted else []
        self._sizes = sorted({size for shape in self._shapes for size in (shape.tokens, shape.requests)})

    def tokens(self, plan: StepPlan) -> int:
        """Return how many tokens ``plan`` is to be filled up to: those of the smallest shape that holds it."""
        total, rows = plan.total_tokens, len(plan.rows)
        decodes = rows == plan.num_decodes
        for shape in self._shapes:
            if total <= shape.tokens and rows <= shape.requests and (decodes or not shape.decode):
                return shape.tokens
        return total

    def logits(self, head: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
        """Return ``head`` (hidden [n, H] -> logits [n, vocab]) called with declared numbers of rows only."""
        if not self._sizes:
            return head

        def filled(hidden: torch.Tensor) -> torch.Tensor:
            count, largest = len(hidden), self._sizes[-1]
            if count > largest:
                return torch.cat([filled(part) for part in torch.split(hidden, largest)])
            size = self._sizes[bisect_left(self._sizes, count)]
            return head(F.pad(hidden, (0, 0, 0, size - count)))[:count]

        return filled
