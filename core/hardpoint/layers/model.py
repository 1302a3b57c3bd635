"""What the runner asks of a model."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch

from hardpoint.layers.step import StepContext


@runtime_checkable
class CausalModel(Protocol):
    """A decoder. A plugin of kind ``models`` is called with a :class:`~hardpoint.layers.build.ModelBuild`."""

    def __call__(self, input_ids: torch.Tensor, positions: torch.Tensor, step: StepContext) -> torch.Tensor:
        """Run the decoder.

        Args:
            input_ids: integer [T], tokens of all requests one after the other.
            positions: integer [T], their places in their sequences.
            step: attention plans and slots.

        Returns:
            Normalised hidden states [T, hidden] in the model's dtype, equal on every rank.
        """

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return logits [n, vocab] over the whole vocabulary, on every rank, for ``hidden`` [n, hidden].

        They are float32, or still in the model's dtype where the product was the last thing that happened to them.
        """
