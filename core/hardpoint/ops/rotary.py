"""Rotary position embedding (Su et al., 2021), and the composite that models call between projection and attention."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from hardpoint.ops.norm import rms_norm
from hardpoint.ops.registry import OpCall, op
from hardpoint.ops.values import Values


def _table(size: int, length: int, values: Values) -> torch.Tensor:
    frequency = 1.0 / (10000.0 ** (torch.arange(0, size, 2, dtype=torch.float32) / size))
    angle = torch.arange(length, dtype=torch.float32)[:, None] * frequency
    return torch.cat((angle.cos(), angle.sin()), -1).to(values.dtype).to(values.device)


def _rotary_inputs(dtype: torch.dtype, device: torch.device, seed: int) -> Iterator[OpCall]:
    values = Values(dtype, device, seed)
    for tokens, heads, kv_heads, size, rotated in ((1, 4, 2, 64, 64), (9, 3, 1, 96, 72), (6, 2, 2, 128, 32)):
        q, k = values.normal(tokens, heads, size), values.normal(tokens, kv_heads, size)
        positions, table = values.integers(500, tokens), _table(rotated, 500, values)
        yield OpCall(f"{tokens}x{size}/{rotated}", (q, k, positions, table))
        yield OpCall(f"{tokens}x{size}/{rotated}-interleaved", (q, k, positions, table, True))
    wide = values.normal(5, 6, 64)
    yield OpCall("strided", (wide[:, :4], wide[:, 4:5], values.integers(99, 5), _table(64, 99, values)))


@op(_rotary_inputs)
def rotary(
    q: torch.Tensor, k: torch.Tensor, positions: torch.Tensor, cos_sin: torch.Tensor, interleaved: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotate the first ``rotated`` elements of each head by its token's angle; the others pass.

    Args:
        q: [T, num_heads, head_size].
        k: [T, num_kv_heads, head_size].
        positions: integers [T].
        cos_sin: [positions, rotated], cosines in the first half of a row and sines in the second, with the scaling of
            the model's rope type included. Used in ``q``'s dtype.
        interleaved: pairs are neighbours (GPT-J) and not elements half a rotation apart (Llama).

    Returns:
        ``(q, k)`` in their shapes, contiguous.
    """
    cos, sin = cos_sin.index_select(0, positions).to(q.dtype).unsqueeze(1).chunk(2, -1)
    return _rotate(q, cos, sin, interleaved), _rotate(k, cos, sin, interleaved)


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, interleaved: bool) -> torch.Tensor:
    rotated = 2 * cos.shape[-1]
    turned, passed = x[..., :rotated], x[..., rotated:]
    first, second = (turned[..., ::2], turned[..., 1::2]) if interleaved else turned.chunk(2, -1)
    real, imaginary = first * cos - second * sin, second * cos + first * sin
    if interleaved:
        turned = torch.stack((real, imaginary), -1).flatten(-2)
        return torch.cat((turned, passed), -1) if passed.shape[-1] else turned
    return torch.cat((real, imaginary, passed), -1)


def _qk_norm_rope_inputs(dtype: torch.dtype, device: torch.device, seed: int) -> Iterator[OpCall]:
    values = Values(dtype, device, seed)
    for tokens, heads, kv_heads, size in ((1, 4, 2, 64), (7, 3, 1, 80), (16, 8, 8, 128)):
        qkv = values.normal(tokens, (heads + 2 * kv_heads) * size)
        q_weight, k_weight = values.normal(size, mean=1.0, std=0.1), values.normal(size, mean=1.0, std=0.1)
        positions, table = values.integers(300, tokens), _table(size, 300, values)
        shape = (qkv, heads, kv_heads, size)
        label = f"{tokens}x{heads}/{kv_heads}x{size}"
        yield OpCall(label, (*shape, None, None, 1e-6, 0.0, positions, table))
        yield OpCall(f"{label}-norm", (*shape, q_weight, k_weight, 1e-6, 0.0, positions, table))
        yield OpCall(f"{label}-offset", (*shape, q_weight - 1, k_weight - 1, 1e-6, 1.0, positions, table))
        yield OpCall(f"{label}-norope", (*shape, q_weight, k_weight, 1e-6, 0.0, positions, None))
        part = _table(size // 2, 300, values)
        yield OpCall(f"{label}-partial", (*shape, None, None, 1e-6, 0.0, positions, part), {"interleaved": True})


@op(_qk_norm_rope_inputs)
def qk_norm_rope(
    qkv: torch.Tensor,
    num_heads: int,
    num_kv_heads: int,
    head_size: int,
    q_weight: torch.Tensor | None,
    k_weight: torch.Tensor | None,
    eps: float,
    offset: float,
    positions: torch.Tensor,
    cos_sin: torch.Tensor | None,
    interleaved: bool = False,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Split a fused projection into heads, norm the queries' and keys' heads, rotate them.

    A model that norms the whole projection (OLMo 2) or norms after the rotation calls :func:`rms_norm` itself.

    Args:
        qkv: [T, (num_heads + 2 * num_kv_heads) * head_size].
        q_weight, k_weight: [head_size] for a norm per head (Qwen 3, Gemma 3), or ``None`` for none.
        eps, offset: of that norm; see :func:`rms_norm`.
        positions, cos_sin, interleaved: see :func:`rotary`; ``cos_sin`` is ``None`` for a layer without rotation.

    Returns:
        ``(q, k, v)`` as [T, heads, head_size]; they may be views of ``qkv``.
    """
    heads = qkv.view(qkv.shape[0], num_heads + 2 * num_kv_heads, head_size)
    q, k, v = torch.split(heads, [num_heads, num_kv_heads, num_kv_heads], 1)
    if q_weight is not None:
        q = rms_norm.reference(q, q_weight, eps, offset)
    if k_weight is not None:
        k = rms_norm.reference(k, k_weight, eps, offset)
    if cos_sin is not None:
        q, k = rotary.reference(q, k, positions, cos_sin, interleaved)
    return q, k, v
