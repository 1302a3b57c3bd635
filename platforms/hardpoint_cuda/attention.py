"""The attention backend ``cudnn``: long prefill chunks through cuDNN's fused attention, everything else through Triton.

On an H200 cuDNN attends twice as fast as the Triton kernel. It wants dense keys and values, so a request's blocks are
gathered first, and it plans anew for every shape, so lengths are rounded to a few. A chunk of ``L`` tokens behind ``P``
earlier ones is two calls whose results are merged by their log-sum-exp (as in Flash-Decoding, Dao et al. 2023):

- all of the chunk against the first ``P0 = P // 1024 * 1024`` tokens, without a mask;
- a causal square over the tokens from ``P0`` on. Its first ``P - P0`` query rows are none of ours and are dropped, its
  length is rounded up; keys of the rounding come after every real query and are never seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np
import torch
import torch.nn.functional as F

from hardpoint.contract.attention import AttentionLayerConfig, BatchView
from hardpoint_triton.attention import TritonAttention, TritonLayer, TritonPlan, TritonPlanner
from hardpoint_triton.chunks import Chunks

if TYPE_CHECKING:
    from hardpoint.contract.device import Device
    from hardpoint.contract.kv import KVSpec
    from hardpoint.contract.limits import BatchLimits

#: Shorter chunks cost less in the Triton kernel than a gather and a plan of their own.
LEAST_TOKENS: Final = 1024
ROWS_STEP: Final = 128
CONTEXT_STEP: Final = 1024
HEAD_SIZES: Final = (64, 128)


@dataclass(frozen=True, slots=True)
class LongChunk:
    """One request's chunk for cuDNN.

    Attributes:
        rows: its tokens in the step.
        context: tokens after the step.
        earlier: ``P0``, a multiple of ``CONTEXT_STEP``.
        skipped: ``P - P0``.
        square: rows and keys of the causal call.
        blocks: int32, blocks of the first ``earlier + square`` tokens; those past ``context`` are any.
    """

    rows: slice
    context: int
    earlier: int
    skipped: int
    square: int
    blocks: torch.Tensor


@dataclass(frozen=True, slots=True)
class CudnnPlan(TritonPlan):
    """A Triton plan for decodes and short chunks, and the long chunks beside it."""

    short: TritonPlan
    long: tuple[LongChunk, ...]


class CudnnAttention(TritonAttention):
    """Triton's backend with cuDNN for long chunks of layers that cuDNN can serve."""

    name: ClassVar[str] = "cudnn"

    def planner(self, device: Device, spec: KVSpec, block_size: int, limits: BatchLimits) -> CudnnPlanner:
        return CudnnPlanner(device, spec, block_size, limits)

    def layer(self, config: AttentionLayerConfig, block_size: int) -> CudnnLayer:
        return CudnnLayer(config, block_size)


class CudnnPlanner(TritonPlanner):
    """Lists the long chunks once per step."""

    def plan(self, batch: BatchView) -> CudnnPlan:
        plain = super().plan(batch)
        lengths = np.diff(batch.query_start_host[batch.num_decodes :])
        left_out = lengths >= LEAST_TOKENS
        long = tuple(
            _long_chunk(batch, batch.num_decodes + int(at), int(lengths[at])) for at in np.flatnonzero(left_out)
        )
        short = TritonPlan(batch, plain.decodes, Chunks.of(batch, self._device, left_out))
        return CudnnPlan(batch, plain.decodes, plain.chunks, short, long)


def _long_chunk(batch: BatchView, request: int, length: int) -> LongChunk:
    first, context = int(batch.query_start_host[request]), int(batch.seq_lens_host[request])
    before = context - length
    earlier = before // CONTEXT_STEP * CONTEXT_STEP
    square = -(-(context - earlier) // ROWS_STEP) * ROWS_STEP
    wanted = -(-(earlier + square) // batch.block_size)
    blocks = batch.block_table[request, :wanted]
    return LongChunk(
        rows=slice(first, first + length),
        context=context,
        earlier=earlier,
        skipped=before - earlier,
        square=square,
        blocks=F.pad(blocks, (0, wanted - len(blocks))),
    )


class CudnnLayer(TritonLayer):
    """The kernels of one layer."""

    def __init__(self, config: AttentionLayerConfig, block_size: int) -> None:
        super().__init__(config, block_size)
        plain = config.window is None and config.soft_cap is None and not config.sinks
        self._served = plain and config.head_size in HEAD_SIZES

    def attend(
        self,
        q: torch.Tensor,
        kv: torch.Tensor,
        plan: Any,
        sinks: torch.Tensor | None,
        keywords: Mapping[str, Any],
        own: tuple[torch.Tensor, torch.Tensor] | None = None,
        sums: torch.Tensor | None = None,
    ) -> torch.Tensor:
        takes = self._served and plan.long and q.dtype in (torch.bfloat16, torch.float16) and kv.dtype == q.dtype
        if not takes:
            return super().attend(q, kv, plan, sinks, keywords, own, sums)
        out = super().attend(q, kv, plan.short, sinks, keywords, own, sums)
        for chunk in plan.long:
            out[chunk.rows] = self._attend(q[chunk.rows], kv, chunk)
        return out

    def _attend(self, q: torch.Tensor, kv: torch.Tensor, chunk: LongChunk) -> torch.Tensor:
        """Return [L, heads, head_size] for one chunk."""
        dense = kv.index_select(1, chunk.blocks).permute(0, 2, 1, 3, 4).flatten(2, 3)
        # Slots that hold nothing yet may hold anything; a weight of zero does not hide NaN.
        dense[:, :, chunk.context :] = 0
        k, v = dense.unsqueeze(1).unbind(0)
        length = q.shape[0]
        end = chunk.earlier + chunk.square
        padded = F.pad(q, (0, 0, 0, 0, chunk.skipped, chunk.square - chunk.skipped - length))
        own, own_sum = self._cudnn(padded, k[:, :, chunk.earlier : end], v[:, :, chunk.earlier : end], causal=True)
        rows = slice(chunk.skipped, chunk.skipped + length)
        own, own_sum = own[rows], own_sum[rows]
        if not chunk.earlier:
            return own
        wide = F.pad(q, (0, 0, 0, 0, 0, -length % ROWS_STEP))
        past, past_sum = self._cudnn(wide, k[:, :, : chunk.earlier], v[:, :, : chunk.earlier], causal=False)
        weight = torch.sigmoid(past_sum[:length] - own_sum)
        return torch.lerp(own.float(), past[:length].float(), weight).to(q.dtype)

    def _cudnn(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ([rows, heads, head_size], log-sum-exp [rows, heads, 1]) for q [rows, heads, head_size]."""
        result = torch.ops.aten._scaled_dot_product_cudnn_attention(
            q.transpose(0, 1).unsqueeze(0), k, v, None, True, 0.0, causal, False, scale=self._config.scale
        )
        return result[0][0].transpose(0, 1), result[1][0].transpose(0, 1)
