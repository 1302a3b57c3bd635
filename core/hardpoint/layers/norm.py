"""Root-mean-square normalisation (Zhang and Sennrich, 2019)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from hardpoint.contract.quant import NormSpec
from hardpoint.layers.parameters import Parameter, along, copied

if TYPE_CHECKING:
    from hardpoint.layers.build import ModelBuild


class RMSNorm:
    """``x / rms(x) * (weight + offset)``.

    Args:
        build: the model being built.
        path: checkpoint name without ``.weight``.
        size: elements normalised together.
        eps: added to the mean square.
        offset: 1 where checkpoints store the weight minus one (Gemma).
        wide: keep the weight in float32, so that the product with it is rounded once (OLMo 2, gpt-oss).
        part: the elements of the weight that this rank holds, all by default.
    """

    __slots__ = ("_norm", "spec", "weight")

    def __init__(
        self,
        build: ModelBuild,
        path: str,
        size: int,
        eps: float,
        offset: float = 0.0,
        wide: bool = False,
        part: tuple[int, int] | None = None,
    ) -> None:
        start, stop = part or (0, size)
        self.weight = build.empty((stop - start,), torch.float32 if wide else None)
        self.spec = NormSpec(eps=eps, offset=offset, wide=wide)
        self._norm = build.ops.rms_norm
        name = f"{path}.weight"
        piece = copied(self.weight, name, (size,), along((size,), 0, start, stop))
        build.parameters.append(Parameter(name, self.weight, ((piece,),), fill="zeros" if offset else "ones"))

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise ``x`` [..., size]."""
        return self._norm(x, self.weight, self.spec.eps, self.spec.offset)
