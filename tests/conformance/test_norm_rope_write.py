"""Norm, rotation and cache write in one pass, against the ops and a plain write. Interpreted where there is no GPU."""

from __future__ import annotations

import pytest
import torch

from hardpoint.contract.attention import HeadRotation
from hardpoint.ops.rotary import qk_norm_rope

triton = pytest.importorskip("triton")
INTERPRETED = triton.knobs.runtime.interpret
pytestmark = [] if INTERPRETED else [pytest.mark.gpu]
DEVICE = "cpu" if INTERPRETED else "cuda"
BLOCKS, BLOCK_SIZE, POSITIONS = 7, 16, 64


def rotation_of(kind: str, size: int, dtype: torch.dtype) -> HeadRotation:
    weight = [torch.randn(size).to(dtype).to(DEVICE) * 0.1 + 1.0 for _ in range(2)]
    if kind == "wide":
        weight = [x.float() for x in weight]
    rotated = {"partial": size // 2, "plain": 0}.get(kind, size)
    angle = torch.randn(POSITIONS, rotated // 2)
    norm = kind in ("norm", "wide", "offset", "plain")
    return HeadRotation(
        q_weight=weight[0] if norm else None,
        k_weight=weight[1] if norm else None,
        eps=1e-5,
        offset=1.0 if kind == "offset" else 0.0,
        cos_sin=torch.cat((angle.cos(), angle.sin()), -1).to(DEVICE) if rotated else None,
        interleaved=kind == "interleaved",
    )


SMALL = ((1, 4, 1, 64), (9, 6, 2, 80))
KINDS = ("rotate", "norm", "wide", "offset", "plain", "partial", "interleaved")


@pytest.mark.parametrize("dense", [False, True], ids=["in-place", "dense"])
@pytest.mark.parametrize(
    ("kind", "tokens", "heads", "kv_heads", "size"),
    [*((kind, *shape) for kind in KINDS for shape in SMALL), ("norm", 70, 5, 1, 32), ("partial", 70, 5, 1, 32)],
)
def test_results_and_cache_agree_with_op_and_plain_write(
    kind: str, dense: bool, tokens: int, heads: int, kv_heads: int, size: int
) -> None:
    """Rows are part of a wider tensor, slots are shuffled, some tokens have none, and no other slot changes."""
    from hardpoint_triton.rope_kernels import norm_rope_write

    torch.manual_seed(0)
    dtype = torch.float16
    rotation = rotation_of(kind, size, dtype)
    width = (heads + 2 * kv_heads) * size
    qkv = torch.randn(tokens, width + 32).to(dtype).to(DEVICE)[:, :width]
    positions = torch.randint(POSITIONS, (tokens,), device=DEVICE)
    slots = torch.randperm(BLOCKS * BLOCK_SIZE)[:tokens].to(DEVICE)
    slots[3::5] = -1
    cache = torch.randn(2, BLOCKS, kv_heads, BLOCK_SIZE, size).to(dtype).to(DEVICE)
    q_weight, k_weight = rotation.q_weight, rotation.k_weight
    q, k, v = qk_norm_rope.reference(
        qkv.clone(), heads, kv_heads, size, q_weight, k_weight, rotation.eps, rotation.offset, positions,
        rotation.cos_sin, rotation.interleaved,
    )  # fmt: skip
    wanted = cache.clone()
    for token, slot in enumerate(slots.tolist()):
        if slot >= 0:
            wanted[0, slot // BLOCK_SIZE, :, slot % BLOCK_SIZE] = k[token]
            wanted[1, slot // BLOCK_SIZE, :, slot % BLOCK_SIZE] = v[token]
    raw = qkv.clone()
    found = norm_rope_write(qkv, rotation, heads, kv_heads, size, positions, slots, cache, dense=dense)
    for name, actual, expected in zip("qkv", found, (q, k, v), strict=True):
        torch.testing.assert_close(actual, expected, atol=4e-3, rtol=4e-3, msg=lambda text, n=name: f"{n}: {text}")
        inside = actual.data_ptr() in range(qkv.data_ptr(), qkv.data_ptr() + qkv.stride(0) * 2 * tokens)
        assert inside != dense
        assert actual.is_contiguous() or not dense
    assert torch.equal(qkv, raw) or not dense
    torch.testing.assert_close(cache, wanted, atol=4e-3, rtol=4e-3)
    stored = slots[slots >= 0]
    assert torch.equal(cache[1, stored // BLOCK_SIZE, :, stored % BLOCK_SIZE], found[2][slots >= 0])


@pytest.mark.skipif(INTERPRETED, reason="Triton's interpreter loses carries when it rounds to 8 bits")
@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_an_8_bit_cache_holds_scaled_values_kept_in_range(scale: float) -> None:
    """Read back and multiplied with the scale, stored values are within the type's step; large ones are its largest."""
    from hardpoint_triton.rope_kernels import norm_rope_write

    torch.manual_seed(1)
    heads, kv_heads, size, tokens = 2, 1, 64, 5
    qkv = torch.randn(tokens, (heads + 2 * kv_heads) * size).half().to(DEVICE)
    qkv[0, -1], qkv[1, -2] = 1e4, -1e4
    cache = torch.zeros(2, BLOCKS, kv_heads, BLOCK_SIZE, size, device=DEVICE).to(torch.float8_e4m3fn)
    slots = torch.arange(20, 20 + tokens, device=DEVICE)
    _, k, v = norm_rope_write(
        qkv, rotation_of("rotate", size, torch.float16), heads, kv_heads, size, slots, slots, cache, scale
    )
    for half, stored in ((0, k), (1, v)):
        back = cache[half, slots // BLOCK_SIZE, :, slots % BLOCK_SIZE].float() * scale
        expected = stored.float().clamp(-448 * scale, 448 * scale)
        assert ((back - expected).abs() <= expected.abs() / 16 + scale * 2**-10).all()
