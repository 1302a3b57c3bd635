"""Ops that the N1 fuses; every other op runs its reference."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F


def silu_mul(gate_up: torch.Tensor) -> torch.Tensor:
    """See ``hardpoint.ops.silu_mul``."""
    gate, up = gate_up.chunk(2, -1)
    return (F.silu(gate.float()) * up.float()).to(gate_up.dtype)


class AcmeOps:
    """The provider."""

    name = "acme"

    @property
    def ops(self) -> Mapping[str, Callable[..., Any]]:
        return {"silu_mul": silu_mul}

    def reject(self, op: str, arch: str, dtype: str) -> list[str]:
        return [] if arch == "n1" else [f"made for the N1, not for {arch}"]
