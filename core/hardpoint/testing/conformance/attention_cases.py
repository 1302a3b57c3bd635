"""Batches on which attention backends are tried: every batch with every option, types and shapes one at a time."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from hardpoint.contract.attention import AttentionQuery

FP8_DTYPES: Final = ("float8_e4m3fn", "float8_e5m2")


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionCase:
    """One batch on one layer.

    Attributes:
        label: name in test reports.
        requests: per request (context length after the step, tokens of the step), those with one token first.
        decodes: how many leading requests are decodes.
        fused: the layer gets the projection, norms and rotates queries and keys, and writes the step's keys and values.
        scales: what stored keys and values are multiplied with when they are read, in layers that can scale.
        shared: tokens, a multiple of ``block_size``, that all requests begin with and whose blocks they share.
        other attributes: see :class:`hardpoint.contract.attention.AttentionQuery`.
    """

    label: str
    requests: tuple[tuple[int, int], ...]
    decodes: int = 0
    num_heads: int = 4
    num_kv_heads: int = 2
    head_size: int = 64
    block_size: int = 16
    dtype: str = "float32"
    kv_dtype: str = ""
    window: int | None = None
    soft_cap: float | None = None
    sinks: bool = False
    fused: bool = False
    shared: int = 0
    scales: tuple[float, float] = (1.0, 1.0)

    def query(self, arch: str) -> AttentionQuery:
        """Return what a backend is asked before it runs the case."""
        return AttentionQuery(
            head_size=self.head_size,
            num_heads=self.num_heads,
            num_kv_heads=self.num_kv_heads,
            dtype=self.dtype,
            kv_dtype=self.kv_dtype or self.dtype,
            block_size=self.block_size,
            arch=arch,
            window=self.window,
            soft_cap=self.soft_cap,
            sinks=self.sinks,
        )


_DECODES = ((1, 1), (16, 1), (17, 1), (300, 1), (15, 1), (700, 1))
_BATCHES: Final = {
    "decode": (_DECODES, len(_DECODES)),
    "decode-alone": (((33, 1),), 1),
    "prefill": (((1, 1), (15, 15), (16, 16), (17, 17), (150, 150)), 0),
    "chunked": (((200, 70), (33, 17), (65, 1), (600, 290)), 0),
    "mixed": (((40, 1), (513, 1), (64, 64), (48, 16), (130, 2)), 2),
}


def attention_cases() -> Iterator[AttentionCase]:
    """Yield the grid: every batch with every option, types and shapes one at a time."""
    for name, (requests, decodes) in _BATCHES.items():
        plain = AttentionCase(label=name, requests=requests, decodes=decodes)
        yield plain
        for dtype in ("bfloat16", "float16"):
            yield replace(plain, label=f"{name}-{dtype}", dtype=dtype)
        for window in (1, 16, 33, 128):
            yield replace(plain, label=f"{name}-window{window}", window=window)
        yield replace(plain, label=f"{name}-cap", soft_cap=5.0)
        yield replace(plain, label=f"{name}-sinks", sinks=True)
        everything = replace(plain, window=100, soft_cap=20.0, sinks=True)
        for dtype in ("float32", "bfloat16"):
            yield replace(everything, label=f"{name}-{dtype}-window-cap-sinks", dtype=dtype)
        yield replace(plain, label=f"{name}-float32-over-bfloat16", kv_dtype="bfloat16")
    for name in ("decode", "mixed"):
        plain = AttentionCase(label=name, requests=_BATCHES[name][0], decodes=_BATCHES[name][1])
        for (heads, kv_heads), dtype in itertools.product(
            ((1, 1), (4, 4), (6, 1), (8, 2), (14, 2)), ("float32", "bfloat16")
        ):
            label = f"{name}-{heads}/{kv_heads}-{dtype}"
            yield replace(plain, label=label, num_heads=heads, num_kv_heads=kv_heads, dtype=dtype)
        for size, dtype in itertools.product((32, 80, 96, 128, 192, 256), ("float32", "bfloat16")):
            yield replace(plain, label=f"{name}-head{size}-{dtype}", head_size=size, dtype=dtype)
        for block in (1, 5, 8, 32, 128):
            yield replace(plain, label=f"{name}-block{block}", block_size=block)
    # Where one cut of a long context meets the next, in powers of two and the blocks around them.
    edges = tuple((length + off, 1) for length in (64, 128, 256, 512, 1024) for off in (-1, 0, 1))
    yield AttentionCase(label="decode-edges", requests=edges, decodes=len(edges))
    yield AttentionCase(label="decode-edges-bfloat16", requests=edges, decodes=len(edges), dtype="bfloat16")
    edges = tuple((16 * blocks + off, tokens) for blocks in (1, 4) for off in (-1, 0, 1) for tokens in (1, 2, 15))
    yield AttentionCase(label="chunk-edges", requests=edges)
    for window in (15, 16, 17, 64):
        yield AttentionCase(label=f"chunk-edges-window{window}", requests=edges, window=window)
    yield AttentionCase(label="long-prefill", requests=((1500, 1500), (2600, 500)), num_kv_heads=1)
    yield AttentionCase(label="long-prefill-window", requests=((1500, 1500), (2600, 500)), window=300)
    yield AttentionCase(
        label="long-chunks-bfloat16",
        requests=((70, 1), (1030, 1030), (2500, 1100), (1024, 1024), (40, 40), (2600, 500), (2060, 1036)),
        decodes=1,
        dtype="bfloat16",
    )
    yield AttentionCase(label="long-prefill-cap", requests=((700, 700), (1600, 300)), soft_cap=10.0)
    shared = ((1100, 1), (1060, 1), (1500, 460), (1041, 1), (1300, 260), (1600, 400), (1056, 16))
    yield AttentionCase(label="shared", requests=shared, decodes=2, shared=1040)
    yield AttentionCase(
        label="shared-bfloat16", requests=shared, decodes=2, shared=1040, dtype="bfloat16", head_size=128
    )
    yield from _shared_decodes()
    yield from _fused_cases()
    yield from _narrow_cases()


def _shared_decodes() -> Iterator[AttentionCase]:
    """Yield decodes that share enough for a backend to read it once for all of them."""
    requests = tuple((1025 + 37 * index % 300, 1) for index in range(70))
    plain = AttentionCase(label="shared-decodes", requests=requests, decodes=len(requests), shared=1024)
    yield plain
    yield replace(plain, label="shared-decodes-cap-sinks", soft_cap=5.0, sinks=True, num_heads=14)
    mixed = (*requests[:66], (1100, 60), (1300, 200))
    for name, dtype in itertools.product(("decodes", "mixed"), ("bfloat16", "float16")):
        batch = (requests, 70) if name == "decodes" else (mixed, 66)
        typed = replace(plain, label=f"shared-{name}-{dtype}", dtype=dtype, requests=batch[0], decodes=batch[1])
        yield replace(typed, head_size=128, num_heads=8)
        yield replace(typed, label=f"shared-{name}-fused-{dtype}", fused=True, block_size=32)
    yield replace(plain, label="shared-decodes-float8", dtype="bfloat16", kv_dtype="float8_e4m3fn", num_kv_heads=4)


def _narrow_cases() -> Iterator[AttentionCase]:
    """Yield caches of 8-bit types."""
    for name, kv_dtype in itertools.product(("decode", "chunked", "mixed"), FP8_DTYPES):
        requests, decodes = _BATCHES[name]
        for dtype in ("bfloat16", "float16", "float32"):
            plain = AttentionCase(label=f"{name}-{dtype}-over-{kv_dtype}", requests=requests, decodes=decodes)
            plain = replace(plain, dtype=dtype, kv_dtype=kv_dtype)
            yield plain
            yield replace(plain, label=f"{plain.label}-fused", fused=True, head_size=128)
        yield replace(plain, label=f"{name}-over-{kv_dtype}-window", window=33, block_size=64, head_size=256)
        yield replace(plain, label=f"{name}-over-{kv_dtype}-scaled", scales=(0.5, 4.0), dtype="float16")


def _fused_cases() -> Iterator[AttentionCase]:
    """Yield batches whose layer norms, rotates and writes; decodes, first chunks and continued chunks among them."""
    for name, (requests, decodes) in _BATCHES.items():
        plain = AttentionCase(label=f"{name}-fused", requests=requests, decodes=decodes, fused=True)
        yield plain
        for dtype in ("bfloat16", "float16"):
            yield replace(plain, label=f"{name}-fused-{dtype}", dtype=dtype, head_size=128)
        yield replace(plain, label=f"{name}-fused-window", window=33, num_heads=6, num_kv_heads=1)
        yield replace(plain, label=f"{name}-fused-cap-sinks", soft_cap=5.0, sinks=True, head_size=80)
    mixed = ((70, 1), (1300, 1), (1030, 1030), (2500, 1100), (1024, 1024), (40, 40), (2600, 500), (2060, 1036), (65, 3))
    for dtype in ("bfloat16", "float16"):
        long = AttentionCase(label=f"long-fused-{dtype}", requests=mixed, decodes=2, fused=True, dtype=dtype)
        yield replace(long, head_size=128, num_heads=8)
        yield replace(long, label=f"equal-fused-{dtype}", requests=((1536, 1536),) * 3, decodes=0)
        shared = ((1100, 1), (1060, 1), (1500, 460), (1300, 260), (1600, 400), (1056, 16))
        yield replace(long, label=f"shared-fused-{dtype}", requests=shared, shared=1040, head_size=128)
