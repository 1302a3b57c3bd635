"""Token embedding and language-model head, split over ranks by vocabulary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from hardpoint.contract.quant import DENSE, Fusion
from hardpoint.layers.fusion import surround
from hardpoint.layers.parameters import Parameter, along, copied

if TYPE_CHECKING:
    from hardpoint.layers.build import ModelBuild
    from hardpoint.layers.norm import RMSNorm


class VocabTable:
    """This rank's rows of a [vocab, hidden] tensor: ``ceil(vocab / ranks)`` of them, the last rank's rest being zeros."""

    __slots__ = ("first", "rows", "weight")

    def __init__(self, build: ModelBuild, path: str, vocab: int, hidden: int, *, packed: bool = False) -> None:
        size = build.comm.size
        self.rows = -(-vocab // size)
        self.first = self.rows * build.comm.rank
        self.weight = build.empty((self.rows, hidden))
        name = f"{path}.weight"
        start, stop = min(self.first, vocab), min(self.first + self.rows, vocab)
        self.weight[stop - start :].zero_()
        piece = copied(self.weight[: stop - start], name, (vocab, hidden), along((vocab, hidden), 0, start, stop))
        build.parameters.append(Parameter(name, self.weight, ((piece,),), packed=packed))


class Embedding:
    """Token ids to vectors.

    Args:
        build: the model being built.
        path: checkpoint name without ``.weight``.
        vocab, hidden: sizes of the whole table.
        scale: factor on the vectors, rounded to the model's dtype first (Gemma).
    """

    __slots__ = ("_all_reduce", "_embed", "_first", "scale", "table")

    def __init__(self, build: ModelBuild, path: str, vocab: int, hidden: int, scale: float | None = None) -> None:
        self.table = VocabTable(build, path, vocab, hidden)
        self._embed = build.ops.embed
        split = build.comm.size > 1
        self._first = self.table.first if split else None
        self._all_reduce = build.comm.all_reduce if split else None
        self.scale = None if scale is None else float(torch.tensor(scale, dtype=build.dtype))

    def __call__(self, ids: torch.Tensor) -> torch.Tensor:
        """Return vectors [T, hidden] for ids [T]."""
        x = self._embed(ids, self.table.weight, self._first)
        if self._all_reduce is not None:
            x = self._all_reduce(x)
        return x if self.scale is None else x * self.scale


class Head:
    """Hidden states to logits over the whole vocabulary, on every rank.

    Args:
        build: the model being built.
        path: checkpoint name without ``.weight``.
        vocab, hidden: sizes of the whole layer.
        tied: the embedding whose table is used instead of weights of its own.
        soft_cap: ``cap * tanh(logit / cap)`` when set (Gemma 2).
        norm: of the hidden states; the caller hands in what is not normed.
    """

    __slots__ = ("_comm", "_run", "_soft_cap", "in_features", "kernel", "out_features", "packed", "path", "scheme", "soft_cap", "vocab")  # fmt: skip

    def __init__(
        self,
        build: ModelBuild,
        path: str,
        vocab: int,
        hidden: int,
        tied: Embedding | None = None,
        soft_cap: float | None = None,
        norm: RMSNorm | None = None,
    ) -> None:
        self.path = path
        table = tied.table if tied is not None else VocabTable(build, path, vocab, hidden, packed=True)
        self.vocab = vocab
        self.scheme = DENSE
        self.out_features, self.in_features = table.weight.shape
        self.kernel, _ = build.choose_kernel(self)
        self._run = surround(
            self.kernel, DENSE, Fusion(norm=None if norm is None else norm.spec), norm, build.ops, bias=False
        )
        self.packed: Mapping[str, torch.Tensor] = {"weight": table.weight}
        self.soft_cap = soft_cap
        self._soft_cap = build.ops.soft_cap
        self._comm = build.comm if build.comm.size > 1 else None
        build.linears.append(self)

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return logits [n, vocab] for ``hidden`` [n, hidden]; float32 where they are capped."""
        logits = self._run(hidden, self.packed, None, None)
        if self._comm is not None:
            logits = self._comm.all_gather(logits, dim=-1)[:, : self.vocab]
        return logits if self.soft_cap is None else self._soft_cap(logits.float(), self.soft_cap)

    def pack(self, build: ModelBuild) -> None:
        """Hand the loaded weight to the kernel. A tied table stays as it is for the embedding."""
        self.packed = self.kernel.pack(self.packed)
