"""Attention backends against dense attention in float64.

The cache is filled with NaN before a case writes its keys and values, block tables are shuffled and end in blocks of
other requests, and tables of windowed layers hold the null block where a block has left the window: whatever a backend
reads beyond what a query may see shows in the result.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch

from hardpoint.contract.attention import (
    AttentionBackend,
    AttentionLayerConfig,
    AttentionQuery,
    BatchView,
    FusedAttentionLayer,
    HeadRotation,
    ScaledAttentionLayer,
    StagedPlanner,
)
from hardpoint.contract.device import Device
from hardpoint.contract.kv import KVSpec
from hardpoint.contract.limits import BatchLimits
from hardpoint.ops.rotary import qk_norm_rope

TOLERANCE: Final = {"float32": 2e-5, "bfloat16": 2e-2, "float16": 4e-3}
#: What a stored element may be off when the layer rounds it itself: a step of the type, seen through the average of many.
FP8_TOLERANCE: Final = {"float8_e4m3fn": 1e-1, "float8_e5m2": 2e-1}


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
    for name, kv_dtype in itertools.product(("decode", "chunked", "mixed"), FP8_TOLERANCE):
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


def check_attention(backend: AttentionBackend, device: Device, case: AttentionCase, seed: int = 0) -> None:
    """Run a case on a backend that does not reject it.

    Raises:
        AssertionError: when the result is further from dense attention than the type explains, or depends on the
            requests that share the batch.
    """
    scene = _Scene(backend, device, case, seed)
    every = range(len(case.requests))
    together = scene.run(every)
    prepared = scene.run(every, prepared=True) if scene.prepares else together
    tolerance = TOLERANCE[case.dtype]
    if case.kv_dtype in FP8_TOLERANCE:
        # Products are in float16, at best.
        tolerance = max(tolerance, FP8_TOLERANCE[case.kv_dtype] if case.fused else TOLERANCE["float16"])
    elif case.kv_dtype:
        tolerance = max(tolerance, TOLERANCE[case.kv_dtype])
    for index, request in enumerate(case.requests):
        where = f"{case.label}, request {index} {request}"
        dense = scene.dense(index)
        _assert_near(together[index].double(), dense, tolerance, f"{where} against dense attention")
        _assert_near(prepared[index].double(), dense, tolerance, f"{where}, prepared, against dense attention")
        (alone,) = scene.run([index])
        _assert_near(together[index], alone, tolerance, f"{where} against the same request alone")


def _assert_near(actual: torch.Tensor, expected: torch.Tensor, tolerance: float, where: str) -> None:
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=tolerance, msg=lambda text: f"{where}: {text}")


def _rotation(positions: int, size: int, dtype: torch.dtype, generator: torch.Generator) -> HeadRotation:
    """Return norms and a rotation of half of each head."""
    angle = torch.randn(positions, size // 4, generator=generator)
    q_weight, k_weight = ((torch.rand(size, generator=generator) + 0.5).to(dtype) for _ in range(2))
    return HeadRotation(
        q_weight=q_weight,
        k_weight=k_weight,
        eps=1e-6,
        offset=0.0,
        cos_sin=torch.cat((angle.cos(), angle.sin()), -1),
        interleaved=False,
    )


class _Scene:
    """A backend's layer with a cache that holds every request's context."""

    def __init__(self, backend: AttentionBackend, device: Device, case: AttentionCase, seed: int) -> None:
        self._case = case
        self._device = device.torch_device
        self._rng = np.random.default_rng(seed)
        generator = torch.Generator().manual_seed(seed)
        dtype, kv_dtype = getattr(torch, case.dtype), getattr(torch, case.kv_dtype or case.dtype)
        heads, size = case.num_heads, case.head_size
        self._rotation = _rotation(max(length for length, _ in case.requests), size, dtype, generator)
        self._qkv = [
            torch.randn(length, heads + 2 * case.num_kv_heads, size, generator=generator).to(dtype)
            for length, _ in case.requests
        ]
        for other in self._qkv[1:]:
            other[: case.shared] = self._qkv[0][: case.shared]
        config = AttentionLayerConfig(
            layer=0,
            num_heads=heads,
            num_kv_heads=case.num_kv_heads,
            head_size=size,
            scale=size**-0.5,
            window=case.window,
            soft_cap=case.soft_cap,
            sinks=case.sinks,
        )
        self._layer = backend.layer(config, case.block_size)
        scales = torch.ones(2, 1, 1, 1)
        if case.scales != (1.0, 1.0) and isinstance(self._layer, ScaledAttentionLayer):
            self._layer.set_scales(*case.scales)
            scales = torch.tensor(case.scales).view(scales.shape)
        self._q, self._kv = [], []
        for qkv, (_, new) in zip(self._qkv, case.requests, strict=True):
            q, k, v = self._rotated(qkv) if case.fused else torch.split(qkv, self._parts(), 1)
            self._q.append(q[len(q) - new :])
            self._kv.append((torch.stack((k, v)) / scales).to(kv_dtype).float() * scales)
        self._sinks = torch.randn(heads, generator=generator) if case.sinks else None
        self._tables, self._num_blocks = self._draw_tables()
        spec = KVSpec(
            num_kv_heads=case.num_kv_heads, head_size=size, dtype=case.kv_dtype or case.dtype, window=case.window
        )
        layout = backend.layout(spec, case.block_size, self._num_blocks)
        assert layout.dtype == spec.dtype
        self._slot_dtype = layout.slot_dtype
        self._cache = torch.full(layout.shape, torch.nan, dtype=kv_dtype, device=self._device)
        assert self._cache.nbytes == layout.block_bytes * self._num_blocks
        limits = BatchLimits(max_tokens=8192, max_requests=256)
        self._planner = backend.planner(device, spec, case.block_size, limits)
        for index, (length, new) in enumerate(case.requests):
            kept = np.arange(self._first_kept(index), length - new if case.fused else length)
            k, v = (side.to(dtype)[kept].to(self._device) for side in self._kv[index])
            self._layer.write(self._cache, k, v, self._slots(index, kept))

    def _parts(self) -> list[int]:
        return [self._case.num_heads, self._case.num_kv_heads, self._case.num_kv_heads]

    def _rotated(self, qkv: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return what the op's reference makes of a whole request's projection [length, heads, head size]."""
        case, rotation = self._case, self._rotation
        return qk_norm_rope.reference(
            qkv.flatten(1),
            case.num_heads,
            case.num_kv_heads,
            case.head_size,
            rotation.q_weight,
            rotation.k_weight,
            rotation.eps,
            rotation.offset,
            torch.arange(len(qkv)),
            rotation.cos_sin,
            rotation.interleaved,
        )

    def _first_kept(self, index: int) -> int:
        """Return the first position that some query of the request sees."""
        length, new = self._case.requests[index]
        return 0 if self._case.window is None else max(length - new - self._case.window + 1, 0)

    def _draw_tables(self) -> tuple[list[np.ndarray], int]:
        """Return block tables over shuffled blocks, block 0 for what left the window, and the number of blocks."""
        needed = [-(-length // self._case.block_size) for length, _ in self._case.requests]
        common = self._case.shared // self._case.block_size
        spare = 3
        free = self._rng.permutation(np.arange(1, 1 + sum(needed) + spare)).astype(np.int32)
        tables: list[np.ndarray] = []
        for index, count in enumerate(needed):
            table, free = free[:count].copy(), free[count:]
            table[:common] = tables[0][:common] if tables else table[:common]
            table[: self._first_kept(index) // self._case.block_size] = 0
            tables.append(table)
        return tables, 1 + sum(needed) + spare

    def _slots(self, index: int, positions: np.ndarray) -> torch.Tensor:
        block, offset = np.divmod(positions, self._case.block_size)
        slots = self._tables[index][block].astype(self._slot_dtype) * self._case.block_size + offset
        return torch.from_numpy(slots.astype(self._slot_dtype)).to(self._device)

    @property
    def prepares(self) -> bool:
        """Whether the case is a step of decodes and the backend has something to do before a prepared one."""
        return self._case.decodes == len(self._case.requests) and isinstance(self._planner, StagedPlanner)

    def run(self, indices: range | list[int], *, prepared: bool = False) -> list[torch.Tensor]:
        """Return the results per request for a batch of these requests, planned as a prepared step is if wanted."""
        case = self._case
        chosen = [case.requests[index] for index in indices]
        new = np.array([tokens for _, tokens in chosen], np.int32)
        lengths = np.array([length for length, _ in chosen], np.int32)
        start = np.concatenate([[0], np.cumsum(new)]).astype(np.int32)
        width = max(len(self._tables[index]) for index in indices)
        # What follows a request's own blocks belongs to somebody else or was never written.
        table = self._rng.integers(0, self._num_blocks, (len(new), width)).astype(np.int32)
        for row, index in enumerate(indices):
            table[row, : len(self._tables[index])] = self._tables[index]
        steps = [
            self._slots(index, np.arange(length - tokens, length))
            for index, (length, tokens) in zip(indices, chosen, strict=True)
        ]
        view = BatchView(
            num_requests=len(new),
            num_decodes=sum(index < case.decodes for index in indices),
            num_tokens=int(start[-1]),
            query_start=torch.from_numpy(start).to(self._device),
            query_start_host=start,
            seq_lens=torch.from_numpy(lengths).to(self._device),
            seq_lens_host=lengths,
            block_table=torch.from_numpy(table).to(self._device),
            block_table_host=table,
            slots=torch.cat(steps),
            max_query_len=int(new.max()),
            max_seq_len=int(lengths.max()),
            block_size=case.block_size,
        )
        if prepared:
            view = self._prepared(view)
        out = self._attend(indices, view)
        q = self._q[0]
        assert out.shape == (view.num_tokens, *q.shape[1:])
        assert out.dtype == q.dtype
        return [out[low:high].cpu() for low, high in itertools.pairwise(start)]

    def _prepared(self, view: BatchView) -> BatchView:
        """Stage the batch as other rows of a larger one; return a view whose host side says nothing but bounds."""
        assert isinstance(self._planner, StagedPlanner)
        count, width = view.block_table_host.shape
        rows = self._rng.permutation(count + 3)[:count].astype(np.int32)
        table = np.zeros((count + 3, width + 1), np.int32)
        table[rows, :width] = view.block_table_host
        variant = self._planner.stage(rows, table, view.seq_lens_host)
        bound = width * self._case.block_size
        return replace(
            view,
            seq_lens_host=np.full(count, bound, np.int32),
            block_table_host=np.zeros((count, width), np.int32),
            max_seq_len=bound,
            variant=variant,
        )

    def _attend(self, indices: range | list[int], view: BatchView) -> torch.Tensor:
        """Attend as the core does, see :class:`hardpoint.layers.attention.Attention`."""
        sinks = None if self._sinks is None else self._sinks.to(self._device)
        plan = self._planner.plan(view)
        if not self._case.fused:
            q = torch.cat([self._q[index] for index in indices]).to(self._device)
            return self._layer.forward(q, self._cache, plan, sinks)
        new = [self._case.requests[index] for index in indices]
        positions = torch.cat([torch.arange(length - tokens, length) for length, tokens in new]).to(self._device)
        qkv = torch.cat([self._qkv[index][-tokens:] for index, (_, tokens) in zip(indices, new, strict=True)])
        if isinstance(self._layer, FusedAttentionLayer):
            rotation, flat = self._on_device(), qkv.flatten(1).to(self._device)
            return self._layer.forward_fused(flat, rotation, positions, view.slots, self._cache, plan, sinks)
        rows = list(zip(indices, new, strict=True))
        k, v = (torch.cat([self._kv[index][side, -tokens:] for index, (_, tokens) in rows]) for side in (0, 1))
        self._layer.write(self._cache, k.to(qkv.dtype).to(self._device), v.to(qkv.dtype).to(self._device), view.slots)
        q = torch.cat([self._q[index] for index in indices]).to(self._device)
        return self._layer.forward(q, self._cache, plan, sinks)

    def _on_device(self) -> HeadRotation:
        moved = {name: getattr(self._rotation, name).to(self._device) for name in ("q_weight", "k_weight", "cos_sin")}
        return replace(self._rotation, **moved)

    def dense(self, index: int) -> torch.Tensor:
        """Return the request's attention in float64, from its definition."""
        case = self._case
        length, new = case.requests[index]
        ratio = case.num_heads // case.num_kv_heads
        q = self._q[index].double().transpose(0, 1)
        k, v = (side.double().transpose(0, 1).repeat_interleave(ratio, 0) for side in self._kv[index])
        scores = q @ k.transpose(1, 2) * case.head_size**-0.5
        if case.soft_cap is not None:
            scores = case.soft_cap * torch.tanh(scores / case.soft_cap)
        distance = torch.arange(length - new, length)[:, None] - torch.arange(length)
        hidden = distance < 0
        if case.window is not None:
            hidden |= distance >= case.window
        scores = scores.masked_fill(hidden, -torch.inf)
        if self._sinks is not None:
            sink = self._sinks.double().view(-1, 1, 1).expand(-1, new, 1)
            scores = torch.cat((scores, sink), -1)
        probs = torch.softmax(scores, -1)[..., :length]
        return torch.matmul(probs, v).transpose(0, 1)
