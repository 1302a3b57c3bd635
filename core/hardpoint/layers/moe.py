"""Mixture of experts: a router, experts split over ranks by their inner size, and an optional shared expert."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

import torch

from hardpoint.contract.quant import DENSE, LinearScheme, OnlineFormat
from hardpoint.layers.linear import Linear
from hardpoint.layers.parameters import Parameter, Piece

if TYPE_CHECKING:
    from hardpoint.layers.build import ModelBuild
    from hardpoint.layers.norm import RMSNorm

Score = Literal["softmax", "softmax_of_chosen", "sigmoid"]
ExpertActivation = Literal["silu", "gelu_tanh", "swiglu_oai"]


class Experts:
    """Weights of all experts of one layer on this rank, stacked; as codes and scales where dense weights are quantized.

    The caller says where they come from: checkpoints store experts one by one, stacked, transposed or quantized. Every
    way gives pieces for ``gate_up`` [E, 2 * inner, hidden] and ``down`` [E, hidden, inner], ``inner`` being this rank's
    ``start:stop``.

    Args:
        build: the model being built.
        path: name for messages.
        num_experts, hidden, inner: sizes of the whole layer.
        bias: whether ``gate_up_bias`` and ``down_bias`` exist.
    """

    __slots__ = (
        "_online",
        "down",
        "down_bias",
        "down_scale",
        "gate_up",
        "gate_up_bias",
        "gate_up_scale",
        "path",
        "start",
        "stop",
    )  # fmt: skip

    def __init__(
        self, build: ModelBuild, path: str, num_experts: int, hidden: int, inner: int, *, bias: bool = False
    ) -> None:
        self.path = path
        self.start, self.stop = build.share(inner, f"the experts' inner size of {path}")
        mine = self.stop - self.start
        self._online = _online(build, path)
        codes = None if self._online is None else getattr(torch, self._online.dtype)
        self.gate_up = build.empty((num_experts, 2 * mine, hidden), codes)
        self.down = build.empty((num_experts, hidden, mine), codes)
        self.gate_up_scale = build.empty((num_experts, 2 * mine), torch.float32) if codes else None
        self.down_scale = build.empty((num_experts, hidden), torch.float32) if codes else None
        self.gate_up_bias = build.empty((num_experts, 2 * mine)) if bias else None
        self.down_bias = build.empty((num_experts, hidden)) if bias else None

    def fill_from(
        self,
        build: ModelBuild,
        gate_up: tuple[tuple[Piece, ...], ...],
        down: tuple[tuple[Piece, ...], ...],
        gate_up_bias: tuple[tuple[Piece, ...], ...] = (),
        down_bias: tuple[tuple[Piece, ...], ...] = (),
    ) -> None:
        """State the ways to fill the tensors; see :class:`~hardpoint.layers.parameters.Parameter`."""
        for name, tensor, scale, ways in (
            ("gate_up_proj", self.gate_up, self.gate_up_scale, gate_up),
            ("down_proj", self.down, self.down_scale, down),
        ):
            if self._online is None or scale is None:
                build.parameters.append(Parameter(f"{self.path}.{name}", tensor, ways))
                continue
            quantized = tuple(tuple(self._online.piece(piece, scale) for piece in way) for way in ways)
            build.parameters.append(Parameter(f"{self.path}.{name}", tensor, quantized, source_dtype=build.dtype))
        if self.gate_up_bias is not None and self.down_bias is not None:
            name = f"{self.path}.gate_up_proj_bias"
            build.parameters.append(Parameter(name, self.gate_up_bias, gate_up_bias, fill="zeros"))
            # Ranks sum their results, so that only one of them may add this bias.
            if build.comm.rank == 0:
                name = f"{self.path}.down_proj_bias"
                build.parameters.append(Parameter(name, self.down_bias, down_bias, fill="zeros"))
            else:
                self.down_bias.zero_()
                build.elsewhere.update(s.name for way in down_bias for piece in way for s in piece.sources)


@dataclass(frozen=True, slots=True)
class _Online:
    """How stacked experts are quantized while they load: ``dtype`` of the codes by torch's name, a scale for each row."""

    form: OnlineFormat
    scheme: LinearScheme
    dtype: str

    def piece(self, plain: Piece, scale: torch.Tensor) -> Piece:
        """Return the piece that fills a part of the codes, made of whole rows, and the rows' part of ``scale``."""
        target, (size, *_) = plain.target, reversed(plain.target.shape)
        rows = [stride // size for stride in target.stride()[:-1]]
        scales = scale.as_strided(target.shape[:-1], rows, target.storage_offset() // size)

        def quantize(*parts: torch.Tensor) -> tuple[torch.Tensor, ...]:
            dense = parts[0] if plain.convert is None else plain.convert(*parts)
            made = self.form.quantize(self.scheme, cast("torch.Tensor", dense))
            return made["weight"], made["weight_scale"]

        return Piece(target, plain.sources, quantize, (scales,))


def _online(build: ModelBuild, path: str) -> _Online | None:
    """Return how experts are quantized while they load, or ``None`` where they stay as the checkpoint has them."""
    if not isinstance(build.quant, OnlineFormat):
        return None
    scheme = build.quant.scheme(path)
    specs = build.quant.tensors(scheme, 1, 1) if scheme != DENSE else {}
    # The op knows codes with one scale a row.
    if scheme.weight != "fp8_e4m3" or scheme.group != 0 or set(specs) != {"weight", "weight_scale"}:
        return None
    return _Online(build.quant, scheme, specs["weight"].dtype)


class MoE:
    """Route each token to ``top_k`` experts and sum their outputs by weight.

    Args:
        build: the model being built.
        router: from hidden to one logit per expert, whole on every rank.
        experts: their weights.
        top_k: experts per token.
        renormalize: divide the chosen weights by their sum.
        score: how logits become weights.
        activation: of the experts; ``limits`` are its parameters (gpt-oss).
        round_weights: round the router's weights to the model's dtype, as the reference of Qwen and gpt-oss does.
        shared: added for every token; its result is partial over ranks like the experts'.
        norm: of the input; the caller hands in what is not normed.
    """

    __slots__ = ("_all_reduce", "_dtype", "_moe", "_norm", "_route", "_routed", "activation", "adds", "experts", "limits",
                 "renormalize", "router", "score", "shared", "top_k")  # fmt: skip

    def __init__(
        self,
        build: ModelBuild,
        router: Linear,
        experts: Experts,
        *,
        top_k: int,
        renormalize: bool,
        score: Score = "softmax",
        activation: ExpertActivation = "silu",
        limits: dict[str, Any] | None = None,
        round_weights: bool = False,
        shared: Callable[[torch.Tensor], torch.Tensor] | None = None,
        norm: RMSNorm | None = None,
    ) -> None:
        self.router = router
        self.experts = experts
        self.top_k = top_k
        self.renormalize = renormalize
        self.score: Score = score
        self.activation: ExpertActivation = activation
        self.limits = limits or {}
        self.shared = shared
        self._dtype = build.dtype if round_weights else None
        self._norm = norm
        self._route = build.ops.topk_router
        self._moe = build.ops.moe
        # Without a provider the whole layer is nothing but its parts, of which the router may have a kernel of its own.
        self._routed = None if build.ops.host_reads("routed_moe") else build.ops.routed_moe
        self._all_reduce = build.comm.all_reduce if build.comm.size > 1 else None
        # Of ranks that sum their results exactly one adds the residual stream too.
        self.adds = build.comm.rank == 0

    def __call__(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        """Run the layer on ``x`` [T, hidden] and add it to ``residual``, which may be overwritten."""
        if not self.adds:
            residual = None
        y = self._whole(x, residual)
        if y is None:
            y = self._apart(x, residual)
        return y if self._all_reduce is None else self._all_reduce(y)

    def _whole(self, x: torch.Tensor, residual: torch.Tensor | None) -> torch.Tensor | None:
        """Return the result of the composite op, or ``None`` where it cannot be used."""
        router, experts, norm = self.router, self.experts, self._norm
        weight = router.packed.get("weight")
        if self._routed is None or self.shared is not None or router.runs != DENSE or weight is None:
            return None
        return self._routed(
            x,
            weight,
            experts.gate_up,
            experts.down,
            self.top_k,
            self.renormalize,
            self.score,
            self.activation,
            norm_weight=None if norm is None else norm.weight,
            eps=0.0 if norm is None else norm.spec.eps,
            offset=0.0 if norm is None else norm.spec.offset,
            router_bias=router.bias,
            round_weights=self._dtype is not None,
            gate_up_bias=experts.gate_up_bias,
            down_bias=experts.down_bias,
            gate_up_scale=experts.gate_up_scale,
            down_scale=experts.down_scale,
            residual=residual,
            **self.limits,
        )

    def _apart(self, x: torch.Tensor, residual: torch.Tensor | None) -> torch.Tensor:
        if self._norm is not None:
            x = self._norm(x)
        weights, ids = self._route(self.router(x), self.top_k, self.renormalize, self.score)
        experts = self.experts
        y = self._moe(
            x,
            weights if self._dtype is None else weights.to(self._dtype),
            ids,
            experts.gate_up,
            experts.down,
            self.activation,
            gate_up_bias=experts.gate_up_bias,
            down_bias=experts.down_bias,
            gate_up_scale=experts.gate_up_scale,
            down_scale=experts.down_scale,
            residual=residual if self.shared is None else self.shared(x),
            **self.limits,
        )
        return y if self.shared is None or residual is None else residual.add_(y)
