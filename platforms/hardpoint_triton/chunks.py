"""A step's chunks: which attend to dense keys and values and which to the cache, their tiles, and the dense launch.

A chunk's own keys and values are at hand in the step. Earlier ones are gathered from the cache where enough rows attend to
them; consecutive chunks behind the same blocks (a shared prefix) are gathered for once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import numpy as np
import torch
import triton

from hardpoint.contract.attention import AttentionLayerConfig, BatchView
from hardpoint_triton.chunk_kernels import attend_dense, gather_blocks, gather_slots, merge_rows
from hardpoint_triton.launch import narrow, stages

#: Rows that must attend to earlier tokens to make up for the gather.
LEAST_ROWS: Final = 128
#: Bytes of keys and values that may be gathered at a time; chunks beyond that read the cache.
MOST_BYTES: Final = 2**29
FIRST_TMA: Final = (9, 0)
SLOT_TOKENS: Final = 16


@dataclass(frozen=True, slots=True)
class Tiles:
    """Which tokens the programs of one launch serve.

    Attributes:
        request, token: int32[count], the tile's request and its first token in that request's chunk.
        past, earlier: int32[count], where its earlier tokens begin among the gathered ones, and how many they are.
        count: tiles.
    """

    request: torch.Tensor
    token: torch.Tensor
    past: torch.Tensor
    earlier: torch.Tensor
    count: int


class ChunkList:
    """Chunks for one kernel; tile lists are made once per tile size.

    Args:
        batch: the step.
        lengths: tokens of each request after the decodes; 0 for those that are not in the list.
        past, earlier: of each, see :class:`Tiles`.
        relieved: per request the rows, and the first of their earlier tokens, that somebody else attends.
        device: where tile lists go.
    """

    __slots__ = ("_device", "_facts", "_first", "_lengths", "_relieved", "_tiles")

    def __init__(
        self,
        batch: BatchView,
        lengths: np.ndarray[Any, Any],
        past: np.ndarray[Any, Any],
        earlier: np.ndarray[Any, Any],
        relieved: np.ndarray[Any, Any],
        device: torch.device,
    ) -> None:
        self._first = batch.num_decodes
        self._relieved = relieved
        self._lengths = lengths
        self._facts = past, earlier
        self._device = device
        self._tiles: dict[int, Tiles] = {}

    def tiles(self, tokens: int) -> Tiles:
        """Return tiles of ``tokens`` tokens, those with most to attend to first."""
        if tokens not in self._tiles:
            counts = -(-self._lengths // tokens)
            index = np.repeat(np.arange(len(counts)), counts)
            start = (np.arange(len(index)) - np.repeat(np.cumsum(counts) - counts, counts)) * tokens
            past, earlier = (fact[index] for fact in self._facts)
            rows, keys = self._relieved[:, index]
            spared = np.where(start < rows, keys, 0)
            past, earlier = past + spared, earlier - spared
            # The last program to start should be a short one.
            order = np.argsort(-(start + earlier), kind="stable")
            facts = np.stack([index + self._first, start, past, earlier])[:, order].astype(np.int32)
            placed = torch.from_numpy(np.ascontiguousarray(facts)).to(self._device, non_blocking=True)
            self._tiles[tokens] = Tiles(placed[0], placed[1], placed[2], placed[3], len(index))
        return self._tiles[tokens]


@dataclass(frozen=True, slots=True)
class Past:
    """Earlier tokens to gather.

    Attributes:
        blocks, held: int32[n], blocks and how many of each block's tokens are earlier ones.
    """

    blocks: torch.Tensor
    held: torch.Tensor


@dataclass(frozen=True, slots=True)
class Relief:
    """Rows of the step whose attention to some earlier tokens is somebody else's, to be merged with the rest.

    Attributes:
        rows: tokens of the step.
        past: gathered tokens.
    """

    rows: slice
    past: slice


#: From rows and their earlier tokens to how many of each to relieve the dense kernel of; rows of several requests are
#: relieved all or not at all.
Reliever = Callable[[int, int], tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Chunks:
    """A step's chunks.

    Attributes:
        every: all of them, for a kernel that reads the cache.
        dense: those that attend to dense keys and values, where the layer can.
        paged: the others.
        past: what ``dense`` needs gathered, or ``None``.
        relief: what ``dense`` leaves out.
    """

    every: ChunkList
    dense: ChunkList
    paged: ChunkList
    past: Past | None
    relief: tuple[Relief, ...] = ()


def divide_chunks(batch: BatchView, device: torch.device, token_bytes: int, reliever: Reliever | None = None) -> Chunks:
    """Divide a step's chunks; ``token_bytes`` are those of one token's keys and values."""
    first, size = batch.num_decodes, batch.block_size
    lengths = np.diff(batch.query_start_host[first:])
    earlier = batch.seq_lens_host[first:] - lengths
    past, dense = np.zeros(len(lengths), np.int32), earlier == 0
    table = batch.block_table_host[first:]
    blocks: list[np.ndarray[Any, Any]] = []
    held: list[np.ndarray[Any, Any]] = []
    relieved = np.zeros((2, len(lengths)), np.int32)
    relief: list[Relief] = []
    starts = batch.query_start_host[first:]
    gathered = at = 0
    most = MOST_BYTES // token_bytes
    while at < len(lengths):
        stop, tokens = at + 1, int(earlier[at])
        count = -(-tokens // size)
        if tokens:
            # Partly filled blocks are never shared.
            while (
                tokens % size == 0
                and stop < len(lengths)
                and earlier[stop] == tokens
                and np.array_equal(table[stop, :count], table[at, :count])
            ):
                stop += 1
            rows = int(starts[stop] - starts[at])
            if rows >= LEAST_ROWS and gathered + count * size <= most:
                past[at:stop], dense[at:stop] = gathered, True
                fewer, keys = (0, 0) if reliever is None else reliever(rows, tokens)
                if fewer and (stop == at + 1 or fewer == rows):
                    relieved[:, at:stop] = np.array([[fewer], [keys]])
                    begin = int(starts[at])
                    relief.append(Relief(slice(begin, begin + fewer), slice(gathered, gathered + keys)))
                gathered += count * size
                blocks.append(table[at, :count])
                held.append(np.minimum(tokens - np.arange(count) * size, size))
        at = stop
    wanted = None
    if blocks:
        both = np.stack([np.concatenate(blocks), np.concatenate(held)]).astype(np.int32)
        placed = torch.from_numpy(both).to(device, non_blocking=True)
        wanted = Past(placed[0], placed[1])
    return Chunks(
        every=ChunkList(batch, lengths, past, earlier, relieved, device),
        dense=ChunkList(batch, np.where(dense, lengths, 0), past, earlier, relieved, device),
        paged=ChunkList(batch, np.where(dense, 0, lengths), past, earlier, relieved, device),
        past=wanted,
        relief=tuple(relief),
    )


def takes_dense(config: AttentionLayerConfig) -> bool:
    """Return whether the dense kernel serves the layer."""
    size = config.head_size
    plain = config.window is None and config.soft_cap is None and not config.sinks
    return plain and 16 <= size <= 256 and size == triton.next_power_of_2(size)


def launch_dense(
    config: AttentionLayerConfig,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    past: tuple[torch.Tensor, torch.Tensor] | None,
    out: torch.Tensor,
    batch: BatchView,
    chunks: ChunkList,
    sums: torch.Tensor | None = None,
) -> None:
    """Attend chunks to dense keys and values.

    Args:
        q, k, v: [T, heads, head_size], heads contiguous; k and v with the same stride between tokens.
        past: gathered keys and values.
        out: [T, heads, head_size], contiguous.
        sums: float32 [T, heads] for natural log-sum-exps.
    """
    shape = dense_shape(config.head_size, q.dtype, q.device)
    group = config.num_heads // config.num_kv_heads
    rows = max(shape.rows, triton.next_power_of_2(group))
    # What is relieved ends at round numbers, and with a tile.
    tokens = rows // group if sums is None else 1 << (rows // group).bit_length() - 1
    tiles = chunks.tiles(tokens)
    if not tiles.count:
        return
    before = (k, v) if past is None else past
    strides = q.stride(0), k.stride(0), before[0].stride(0), out.stride(0)
    sources: tuple[Any, ...] = (k, v, *before)
    if shape.tma:
        from triton.tools.tensor_descriptor import TensorDescriptor

        block = [shape.tokens, 1, config.head_size]
        sources = tuple(TensorDescriptor(x, list(x.shape), list(x.stride()), block) for x in sources)
    attend_dense[(tiles.count, config.num_kv_heads)](
        q, *sources, out, out if sums is None else sums, batch.query_start,
        tiles.request, tiles.token, tiles.past, tiles.earlier, config.scale, *strides,
        HEADS=config.num_heads, G=group, D=config.head_size, TOKENS=tokens, BLOCK_M=rows, BLOCK_N=shape.tokens,
        PAST=past is not None, SUMS=sums is not None, TMA=shape.tma,
        num_warps=shape.warps, num_stages=stages(shape.stages),
    )  # fmt: skip


def merge(out: torch.Tensor, sums: torch.Tensor, other: torch.Tensor, other_sums: torch.Tensor) -> None:
    """Add to ``out`` the attention to other keys.

    Args:
        out, other: [rows, heads, head size], heads contiguous.
        sums: float32 [rows, heads], natural log-sum-exps of ``out``'s scores, heads contiguous.
        other_sums: those of ``other``, of any strides.
    """
    rows, heads, size = out.shape
    group = min(16, triton.next_power_of_2(heads))
    merge_rows[(rows, triton.cdiv(heads, group))](
        out, sums, other, other_sums, out.stride(0), sums.stride(0), other.stride(0), *other_sums.stride(),
        HEADS=heads, D=size, GROUP=group, num_warps=4,
    )  # fmt: skip


def gather_past(
    kv: torch.Tensor, past: Past, dtype: torch.dtype, scales: tuple[float, float]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the earlier keys and values, [tokens, kv heads, head size], in ``dtype``; blocks stay whole."""
    _, _, heads, block_size, size = kv.shape
    count = len(past.blocks)
    k, v = kv.new_empty((2, count * block_size, heads, size), dtype=dtype).unbind(0)
    gather_blocks[(count, heads)](
        kv, past.blocks, past.held, k, v, *scales, *kv.stride()[:4],
        KV=heads, D=size, D_PAD=triton.next_power_of_2(size), BLOCK_SIZE=block_size,
        BLOCK_PAD=triton.next_power_of_2(block_size), num_warps=4,
    )  # fmt: skip
    return k, v


def gather_own(
    kv: torch.Tensor, slots: torch.Tensor, dtype: torch.dtype, scales: tuple[float, float]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return keys and values of a step's tokens [T, kv heads, head size] from the cache to which they were written."""
    _, _, heads, block_size, size = kv.shape
    k, v = kv.new_empty((2, len(slots), heads, size), dtype=dtype).unbind(0)
    gather_slots[(triton.cdiv(len(slots), SLOT_TOKENS), heads)](
        kv, slots, k, v, len(slots), *scales, *kv.stride()[:4],
        KV=heads, D=size, D_PAD=triton.next_power_of_2(size), BLOCK_SIZE=block_size, TOKENS=SLOT_TOKENS, num_warps=4,
    )  # fmt: skip
    return k, v


@dataclass(frozen=True, slots=True)
class DenseShape:
    """How dense attention is launched.

    Attributes:
        rows: of a tile, tokens times the query heads that share a key/value head.
        tokens: keys of a block.
        warps, stages: of a program.
        tma: whether keys and values are fetched by descriptors.
    """

    rows: int
    tokens: int
    warps: int
    stages: int
    tma: bool


@cache
def dense_shape(head_size: int, dtype: torch.dtype, device: torch.device) -> DenseShape:
    """Return the launch for a layer, chosen by measurement on an H200."""
    on_nvidia = device.type == "cuda" and torch.version.hip is None
    if dtype == torch.float32 or head_size > 128:
        return DenseShape(rows=64, tokens=32, warps=4, stages=2, tma=False)
    if narrow():
        return DenseShape(rows=32, tokens=32, warps=8, stages=2, tma=False)
    if on_nvidia and torch.cuda.get_device_capability(device) >= FIRST_TMA:
        return DenseShape(rows=64, tokens=64, warps=4, stages=3, tma=True)
    return DenseShape(rows=128, tokens=64, warps=8, stages=3, tma=False)
