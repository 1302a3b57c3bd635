"""Mixture of experts: the router's choice, and the experts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
import torch.nn.functional as F

from hardpoint.ops.activation import gelu_mul, silu_mul, swiglu_oai
from hardpoint.ops.norm import rms_norm
from hardpoint.ops.registry import OpCall, Tolerance, op
from hardpoint.ops.values import Values

RouterScore = Literal["softmax", "softmax_of_chosen", "sigmoid"]
ExpertActivation = Literal["silu", "gelu_tanh", "swiglu_oai"]


def _router_inputs(dtype: torch.dtype, device: torch.device, seed: int) -> Iterator[OpCall]:
    values = Values(dtype, device, seed)
    for tokens, experts, k in ((1, 8, 2), (7, 60, 4), (3, 128, 8), (2, 256, 16), (0, 8, 2)):
        # Distinct logits in every row: which of two equal experts is chosen is not defined.
        spread = torch.stack([values.permutation(experts) for _ in range(tokens)] or [values.permutation(experts)])
        logits = (spread[:tokens].float() / (16 if experts <= 128 else 32)).to(dtype)
        yield OpCall(f"{tokens}x{experts}-softmax", (logits, k, False))
        yield OpCall(f"{tokens}x{experts}-renormalised", (logits, k, True))
        yield OpCall(f"{tokens}x{experts}-chosen", (logits, k, False, "softmax_of_chosen"))
        yield OpCall(f"{tokens}x{experts}-sigmoid", (logits, k, True, "sigmoid"))


@op(_router_inputs)
def topk_router(
    logits: torch.Tensor, k: int, renormalize: bool, score: RouterScore = "softmax"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose ``k`` experts per token and their weights.

    Args:
        logits: [T, experts].
        k: experts per token.
        renormalize: divide the chosen weights by their sum.
        score: ``softmax`` over all experts (Mixtral, Qwen), ``softmax_of_chosen`` (gpt-oss) or ``sigmoid``.

    Returns:
        ``(weights float32 [T, k], ids int64 [T, k])``, best first. A model whose reference rounds the weights to its own
        type (Qwen, gpt-oss) rounds them.
    """
    if score == "softmax_of_chosen":
        chosen, ids = logits.topk(k, -1)
        weights = torch.softmax(chosen, -1, dtype=torch.float32)
    else:
        scores = torch.sigmoid(logits.float()) if score == "sigmoid" else torch.softmax(logits, -1, dtype=torch.float32)
        weights, ids = scores.topk(k, -1)
    if renormalize:
        weights = weights / weights.sum(-1, keepdim=True)
    return weights, ids


def _moe_inputs(dtype: torch.dtype, device: torch.device, seed: int) -> Iterator[OpCall]:
    values = Values(dtype, device, seed)
    hidden, inner, experts = 64, 48, 8
    gate_up = values.normal(experts, 2 * inner, hidden, std=hidden**-0.5)
    down = values.normal(experts, hidden, inner, std=inner**-0.5)
    biases = {"gate_up_bias": values.normal(experts, 2 * inner), "down_bias": values.normal(experts, hidden)}
    for tokens, k in ((1, 2), (9, 4), (40, 1), (0, 2)):
        x, ids = values.normal(tokens, hidden), values.uniform(tokens, experts).argsort(-1)[:, :k]
        weights = torch.softmax(values.uniform(tokens, k), -1)
        for activation in ("silu", "gelu_tanh", "swiglu_oai"):
            call = (x, weights, ids, gate_up, down, activation)
            yield OpCall(f"{tokens}x{k}-{activation}", call)
        yield OpCall(f"{tokens}x{k}-biases", (x, weights, ids, gate_up, down, "swiglu_oai"), biases)
        part = (x, weights.to(dtype), ids, gate_up[2:5], down[2:5], "silu")
        yield OpCall(f"{tokens}x{k}-part", part, {"first_expert": 2})
        residual = {"residual": values.normal(tokens, hidden), **biases}
        yield OpCall(f"{tokens}x{k}-residual", (x, weights, ids, gate_up, down, "silu"), residual)
    yield from _uneven_inputs(values, gate_up, down)
    # Sizes of neither experts nor rows that any tile divides.
    hidden, inner = 72, 40
    for tokens, experts, k in ((3, 128, 8), (5, 256, 16)):
        gate_up = values.normal(experts, 2 * inner, hidden, std=hidden**-0.5)
        down = values.normal(experts, hidden, inner, std=inner**-0.5)
        x, ids = values.normal(tokens, hidden), values.uniform(tokens, experts).argsort(-1)[:, :k]
        weights = torch.softmax(values.uniform(tokens, k), -1)
        yield OpCall(f"{tokens}x{k}-of-{experts}", (x, weights, ids, gate_up, down))


def _uneven_inputs(values: Values, gate_up: torch.Tensor, down: torch.Tensor) -> Iterator[OpCall]:
    """Yield many tokens of which one expert gets all, most or none."""
    experts, hidden = down.shape[:2]
    tokens, k = 150, 2
    x, weights = values.normal(tokens, hidden), torch.softmax(values.uniform(tokens, k), -1)
    same = values.integers(1, tokens, 1)
    yield OpCall("one-takes-all", (x, weights[:, :1], same + 5, gate_up, down))
    yield OpCall("elsewhere", (x, weights[:, :1], same + 5, gate_up[:3], down[:3]))
    other = values.integers(experts - 1, tokens, 1) + 1
    yield OpCall("one-takes-half", (x, weights, torch.cat([other, same], 1), gate_up, down))


@op(
    _moe_inputs,
    tolerance={torch.bfloat16: Tolerance(4e-2, 2e-2), torch.float16: Tolerance(4e-3, 4e-3)},
    host_reads=True,
)
def moe(
    x: torch.Tensor,
    weights: torch.Tensor,
    ids: torch.Tensor,
    gate_up: torch.Tensor,
    down: torch.Tensor,
    activation: ExpertActivation = "silu",
    gate_up_bias: torch.Tensor | None = None,
    down_bias: torch.Tensor | None = None,
    alpha: float = 1.702,
    limit: float = 7.0,
    first_expert: int = 0,
    residual: torch.Tensor | None = None,
    gate_up_scale: torch.Tensor | None = None,
    down_scale: torch.Tensor | None = None,
) -> torch.Tensor:
    """Run every token through its experts, sum their outputs by weight and add ``residual``.

    A token's sum runs over its experts in ascending order, whoever shares the batch.

    Args:
        x: [T, hidden].
        weights: [T, k], float32 or ``x``'s dtype; products with float32 weights are rounded once.
        ids: integers [T, k].
        gate_up: [experts, 2 * inner, hidden], rows as the activation wants them: gate first for ``silu`` and
            ``gelu_tanh``, alternating for ``swiglu_oai``.
        down: [experts, hidden, inner].
        gate_up_bias, down_bias: [experts, 2 * inner] and [experts, hidden], or absent.
        alpha, limit: of ``swiglu_oai``.
        first_expert: id of the first expert here; choices outside [first, first + experts) add nothing.
        residual: [T, hidden], or absent.
        gate_up_scale, down_scale: float32 [experts, 2 * inner] and [experts, hidden] where ``gate_up`` and ``down`` are
            codes (float8_e4m3fn): a weight is its code times its row's scale. A provider may round activations to codes
            too, token by token.

    Returns:
        [T, hidden] in ``x``'s dtype.
    """
    out = torch.zeros_like(x)
    local = ids.flatten() - first_expert
    order = local.argsort(stable=True)
    counts = torch.bincount(local.clamp(-1, gate_up.shape[0]) + 1, minlength=gate_up.shape[0] + 2).tolist()
    # The first and the last bin hold the choices of experts that live elsewhere.
    start = counts[0]
    for expert, count in enumerate(counts[1:-1]):
        if not count:
            continue
        chosen = order[start : start + count]
        start += count
        tokens = chosen // ids.shape[1]
        inner = F.linear(x[tokens], _dense(gate_up, gate_up_scale, expert, x.dtype))
        if gate_up_bias is not None:
            inner = inner + gate_up_bias[expert]
        result = F.linear(_activate(inner, activation, alpha, limit), _dense(down, down_scale, expert, x.dtype))
        if down_bias is not None:
            result = result + down_bias[expert]
        result = result * weights.flatten()[chosen].unsqueeze(-1)
        out.index_add_(0, tokens, result.to(x.dtype))
    return out if residual is None else residual + out


def _dense(stack: torch.Tensor, scale: torch.Tensor | None, expert: int, dtype: torch.dtype) -> torch.Tensor:
    weight = stack[expert]
    return weight if scale is None else (weight.float() * scale[expert].unsqueeze(-1)).to(dtype)


def _routed_inputs(dtype: torch.dtype, device: torch.device, seed: int) -> Iterator[OpCall]:
    values = Values(dtype, device, seed)
    hidden, inner = 64, 48
    for tokens, experts, k in ((1, 8, 2), (3, 32, 4), (70, 8, 2), (0, 8, 2)):
        # Along one direction all logits differ by much more than any rounding, so that the choice is defined.
        direction = values.normal(hidden).sign()
        signs = values.uniform(tokens, 1).round() * 2 - 1
        x = direction * signs.to(dtype) + values.normal(tokens, hidden, std=0.2)
        router = (values.permutation(experts)[:, None] + 1) * direction * (4 / experts / hidden)
        gate_up = values.normal(experts, 2 * inner, hidden, std=hidden**-0.5)
        down = values.normal(experts, hidden, inner, std=inner**-0.5)
        weight = values.normal(hidden, mean=1.0, std=0.05)
        rest = (router.to(dtype), gate_up, down)
        yield OpCall(f"{tokens}x{k}-softmax", (x, *rest, k, True), {"norm_weight": weight})
        yield OpCall(
            f"{tokens}x{k}-rounded",
            (x, *rest, k, False),
            {
                "norm_weight": weight - 1,
                "offset": 1.0,
                "round_weights": True,
                "residual": values.normal(tokens, hidden),
            },
        )
        yield OpCall(
            f"{tokens}x{k}-biases",
            (x, *rest, k, False, "softmax_of_chosen", "swiglu_oai"),
            {
                "norm_weight": weight.float(),
                "eps": 1e-5,
                "router_bias": values.normal(experts, std=1e-3),
                "gate_up_bias": values.normal(experts, 2 * inner),
                "down_bias": values.normal(experts, hidden),
                "round_weights": True,
            },
        )
        yield OpCall(f"{tokens}x{k}-plain", (x, *rest, k, True, "sigmoid", "gelu_tanh"))


@op(
    _routed_inputs,
    tolerance={torch.bfloat16: Tolerance(6e-2, 3e-2), torch.float16: Tolerance(6e-3, 6e-3)},
    host_reads=True,
)
def routed_moe(
    x: torch.Tensor,
    router: torch.Tensor,
    gate_up: torch.Tensor,
    down: torch.Tensor,
    k: int,
    renormalize: bool,
    score: RouterScore = "softmax",
    activation: ExpertActivation = "silu",
    *,
    norm_weight: torch.Tensor | None = None,
    eps: float = 1e-6,
    offset: float = 0.0,
    router_bias: torch.Tensor | None = None,
    round_weights: bool = False,
    gate_up_bias: torch.Tensor | None = None,
    down_bias: torch.Tensor | None = None,
    alpha: float = 1.702,
    limit: float = 7.0,
    residual: torch.Tensor | None = None,
    gate_up_scale: torch.Tensor | None = None,
    down_scale: torch.Tensor | None = None,
) -> torch.Tensor:
    """Norm, route and run the experts, and add ``residual``: a whole layer, so that a provider can fuse its parts.

    Args:
        x: [T, hidden].
        router: [experts, hidden], with ``router_bias`` [experts] or without.
        gate_up, down, activation, gate_up_bias, down_bias, alpha, limit, gate_up_scale, down_scale: see :func:`moe`.
        k, renormalize, score: see :func:`topk_router`.
        norm_weight, eps, offset: see :func:`hardpoint.ops.norm.rms_norm`; no weight, no norm.
        round_weights: round the router's weights to ``x``'s dtype.
        residual: [T, hidden], or absent.

    Returns:
        [T, hidden] in ``x``'s dtype.
    """
    normed = x if norm_weight is None else rms_norm.reference(x, norm_weight, eps, offset)
    weights, ids = topk_router.reference(F.linear(normed, router, router_bias), k, renormalize, score)
    return moe.reference(
        normed,
        weights.to(x.dtype) if round_weights else weights,
        ids,
        gate_up,
        down,
        activation,
        gate_up_bias,
        down_bias,
        alpha,
        limit,
        residual=residual,
        gate_up_scale=gate_up_scale,
        down_scale=down_scale,
    )


def _activate(gate_up: torch.Tensor, activation: ExpertActivation, alpha: float, limit: float) -> torch.Tensor:
    match activation:
        case "silu":
            return silu_mul.reference(gate_up)
        case "gelu_tanh":
            return gelu_mul.reference(gate_up, "tanh")
        case "swiglu_oai":
            return swiglu_oai.reference(gate_up, alpha, limit)
    raise ValueError(f"activation is {activation!r}; it must be silu, gelu_tanh or swiglu_oai")
