"""Which tiles of a step's chunks are attended by which kernel, and the launches of the dense one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
import triton

from hardpoint.contract.attention import AttentionLayerConfig, BatchView
from hardpoint_triton.chunk_kernels import attend_own

#: Rows of a tile: tokens times the query heads that share a key/value head.
TILE_ROWS: Final = 128


@dataclass(frozen=True, slots=True)
class Tiles:
    """Which tokens the programs of one launch serve.

    Attributes:
        request, token: int32[count], the tile's request and its first token in that request's chunk.
        count: tiles.
    """

    request: torch.Tensor
    token: torch.Tensor
    count: int


class ChunkList:
    """Chunks for one kernel; tile lists are made once per tile size.

    Args:
        batch: the step.
        lengths: tokens of each request after the decodes; 0 for those that are not in the list.
        device: where tile lists go.
    """

    __slots__ = ("_device", "_first", "_lengths", "_tiles")

    def __init__(self, batch: BatchView, lengths: np.ndarray[Any, Any], device: torch.device) -> None:
        self._first = batch.num_decodes
        self._lengths = lengths
        self._device = device
        self._tiles: dict[int, Tiles] = {}

    def tiles(self, tokens: int) -> Tiles:
        """Return tiles of ``tokens`` tokens, those with the longest contexts within their chunks first."""
        if tokens not in self._tiles:
            counts = -(-self._lengths // tokens)
            request = np.repeat(np.arange(self._first, self._first + len(counts), dtype=np.int32), counts)
            start = np.arange(len(request), dtype=np.int32) - np.repeat(np.cumsum(counts) - counts, counts)
            # The last program to start should be a short one.
            order = np.argsort(-start, kind="stable")
            both = np.stack([request[order], (start[order] * tokens).astype(np.int32)])
            placed = torch.from_numpy(both).to(self._device, non_blocking=True)
            self._tiles[tokens] = Tiles(request=placed[0], token=placed[1], count=len(request))
        return self._tiles[tokens]


@dataclass(frozen=True, slots=True)
class Chunks:
    """A step's chunks.

    Attributes:
        every: all of them, for a kernel that reads the cache.
        first: those without earlier context, which may attend to the step's own keys and values.
        later: the others.
    """

    every: ChunkList
    first: ChunkList
    later: ChunkList

    @staticmethod
    def of(batch: BatchView, device: torch.device, left_out: np.ndarray[Any, Any] | None = None) -> Chunks:
        """Return the step's chunks but for those ``left_out``, a truth value per request after the decodes."""
        lengths = np.diff(batch.query_start_host[batch.num_decodes :])
        alone = lengths == batch.seq_lens_host[batch.num_decodes :]
        if left_out is not None:
            lengths = np.where(left_out, 0, lengths)
        return Chunks(
            every=ChunkList(batch, lengths, device),
            first=ChunkList(batch, np.where(alone, lengths, 0), device),
            later=ChunkList(batch, np.where(alone, 0, lengths), device),
        )


def takes_own(config: AttentionLayerConfig) -> bool:
    """Return whether the dense kernel serves the layer."""
    size = config.head_size
    plain = config.window is None and config.soft_cap is None and not config.sinks
    return plain and 16 <= size <= 256 and size == triton.next_power_of_2(size)


def launch_own(
    config: AttentionLayerConfig,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    sums: torch.Tensor | None,
    batch: BatchView,
    chunks: ChunkList,
) -> None:
    """Attend chunks causally to their own tokens.

    Args:
        q, k, v: [T, heads, head_size], heads contiguous; k and v with the same stride between tokens.
        out: [T, heads, head_size], contiguous.
        sums: float32 [T, heads] for log-sum-exps, or ``None``.
        batch: the step.
        chunks: which.
    """
    group = config.num_heads // config.num_kv_heads
    wide = q.dtype == torch.float32 or config.head_size > 128
    rows = max(TILE_ROWS // 2 if wide else TILE_ROWS, triton.next_power_of_2(group))
    tiles = chunks.tiles(rows // group)
    if not tiles.count:
        return
    attend_own[(tiles.count, config.num_kv_heads)](
        q, k, v, out, out if sums is None else sums, batch.query_start, tiles.request, tiles.token, config.scale,
        q.stride(0), k.stride(0), out.stride(0),
        HEADS=config.num_heads, G=group, D=config.head_size, BLOCK_M=rows, BLOCK_N=32 if wide else 64,
        SUMS=sums is not None, TMA=False, PRECISION="ieee" if q.dtype == torch.float32 else "tf32",
        num_warps=4 if wide else 8, num_stages=2 if wide else 3,
    )  # fmt: skip
