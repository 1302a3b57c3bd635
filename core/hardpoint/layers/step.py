"""What a step hands to a model's layers beside token ids and positions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True, slots=True)
class StepContext:
    """One step's attention plans and cache slots, one of each per KV group.

    Attributes:
        plans: what the attention backends' planners returned; opaque here.
        slots: slot_dtype[T] each, where the step's keys and values go.
    """

    plans: Sequence[Any]
    slots: Sequence[torch.Tensor]
