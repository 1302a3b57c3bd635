"""Attention backends against dense attention in float64.

The cache is filled with NaN before a case writes its keys and values, block tables are shuffled and end in blocks of
other requests, and tables of windowed layers hold the null block where a block has left the window: whatever a backend
reads beyond what a query may see shows in the result.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Final

import numpy as np
import torch

from hardpoint.contract.attention import (
    AttentionBackend,
    AttentionLayerConfig,
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
from hardpoint.testing.conformance.attention_cases import AttentionCase, attention_cases

__all__ = ["AttentionCase", "attention_cases", "check_attention"]

TOLERANCE: Final = {"float32": 2e-5, "bfloat16": 2e-2, "float16": 4e-3}
#: What a stored element may be off when the layer rounds it itself: a step of the type, seen through the average of many.
FP8_TOLERANCE: Final = {"float8_e4m3fn": 1e-1, "float8_e5m2": 2e-1}


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
