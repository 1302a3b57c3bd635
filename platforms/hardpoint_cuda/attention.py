"""The attention backend ``cudnn``: recurring shapes of long prompts through cuDNN's fused attention, all else through Triton.

On an H200 cuDNN attends at 580 to 670 TFLOP/s where the Triton kernel does at 510 to 570, but it has to plan every shape
anew, for about 40 ms. So it gets what comes in few shapes: steps that are whole prompts of one length, and of a chunk behind
many earlier tokens the rectangle of rows and earlier tokens in round numbers; the Triton kernel attends the rest, and both
results are merged by their log-sum-exps (as in Flash-Decoding, Dao et al. 2023). A shape is planned when it has brought
enough work.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np
import torch

from hardpoint.contract.attention import AttentionLayerConfig, BatchView, HeadRotation
from hardpoint_triton import rope_kernels
from hardpoint_triton.attention import TritonAttention, TritonLayer, TritonPlan, TritonPlanner
from hardpoint_triton.chunks import divide_chunks, gather_past, launch_dense, merge

if TYPE_CHECKING:
    from hardpoint.contract.device import Device
    from hardpoint.contract.kv import KVSpec
    from hardpoint.contract.limits import BatchLimits

#: Lengths of prompts are multiples of this: others are other kernels of cuDNN's, which it compiles for half a second.
PROMPT_STEP: Final = 128
ROWS_STEP: Final = 512
EARLIER_STEP: Final = 2048
#: Pairs of query and key from which a rectangle makes up for a merge.
LEAST_RECTANGLE: Final = 2**23
#: Pairs that a shape must have brought before it is planned: what that costs is then made up for.
LEAST_PAIRS: Final = 2**27
#: Rows and keys of the calls that make cuDNN compile.
WARM_UP: Final = (5120, 8192)
HEAD_SIZES: Final = (64, 128)
DTYPES: Final = ("bfloat16", "float16")


@dataclass(frozen=True, slots=True)
class CudnnPlan(TritonPlan):
    """A Triton plan, and what cuDNN makes of the step.

    Attributes:
        prompts: where the step is that many whole prompts of one length, and cuDNN shall serve it; else 0.
    """

    prompts: int


class CudnnAttention(TritonAttention):
    """Triton's backend with cuDNN for recurring steps of layers that cuDNN can serve."""

    name: ClassVar[str] = "cudnn"

    def planner(self, device: Device, spec: KVSpec, block_size: int, limits: BatchLimits) -> CudnnPlanner:
        return CudnnPlanner(device, spec, block_size, limits)

    def layer(self, config: AttentionLayerConfig, block_size: int) -> CudnnLayer:
        return CudnnLayer(config, block_size)


class CudnnPlanner(TritonPlanner):
    """Counts what shapes bring, and gives cuDNN those that bring much."""

    def __init__(self, device: Device, spec: KVSpec, block_size: int, limits: BatchLimits) -> None:
        super().__init__(device, spec, block_size, limits)
        self._served = spec.head_size in HEAD_SIZES and spec.dtype in DTYPES and spec.window is None
        self._pairs: Counter[tuple[str, int, int]] = Counter()
        if self._served and device.torch_device.type == "cuda":
            _compile(spec.num_kv_heads, spec.head_size, getattr(torch, spec.dtype), device.torch_device)

    def plan(self, batch: BatchView) -> CudnnPlan:
        plain = super().plan(batch)
        if not self._served or batch.num_decodes == batch.num_requests:
            return CudnnPlan(batch, plain.decodes, plain.chunks, 0)
        prompts = self._prompts(batch)
        chunks = plain.chunks
        if chunks.past is not None:
            chunks = divide_chunks(batch, self._device, self._token_bytes, self._relieve)
        return CudnnPlan(batch, plain.decodes, chunks, prompts)

    def _prompts(self, batch: BatchView) -> int:
        if batch.num_decodes or batch.max_query_len % PROMPT_STEP:
            return 0
        lengths = np.diff(batch.query_start_host)
        if not (np.array_equal(lengths, batch.seq_lens_host) and (lengths == lengths[0]).all()):
            return 0
        count, length = batch.num_requests, int(lengths[0])
        return count if self._worth("prompts", count, length, count * length * length // 2) else 0

    def _relieve(self, rows: int, tokens: int) -> tuple[int, int]:
        """Return the rectangle of rows and earlier tokens for cuDNN."""
        rows, tokens = rows // ROWS_STEP * ROWS_STEP, tokens // EARLIER_STEP * EARLIER_STEP
        large = rows * tokens >= LEAST_RECTANGLE
        return (rows, tokens) if large and self._worth("past", rows, tokens, rows * tokens) else (0, 0)

    def _worth(self, what: str, first: int, second: int, pairs: int) -> bool:
        self._pairs[what, first, second] += pairs
        return self._pairs[what, first, second] >= LEAST_PAIRS


class CudnnLayer(TritonLayer):
    """The kernels of one layer."""

    def forward_fused(
        self,
        qkv: torch.Tensor,
        rotation: HeadRotation,
        positions: torch.Tensor,
        slots: torch.Tensor,
        kv: torch.Tensor,
        plan: Any,
        sinks: torch.Tensor | None,
    ) -> torch.Tensor:
        if not (plan.prompts and self._takes_dense and kv.dtype == qkv.dtype):
            return super().forward_fused(qkv, rotation, positions, slots, kv, plan, sinks)
        config = self._config
        parts = rope_kernels.norm_rope_write(
            qkv, rotation, config.num_heads, config.num_kv_heads, config.head_size, positions, slots, kv
        )
        return fused_attention(*parts, plan.prompts, config.scale, causal=True)[0]

    def _attend_dense(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, kv: torch.Tensor, out: torch.Tensor, plan: TritonPlan
    ) -> None:
        chunks = plan.chunks
        if chunks.past is None or not chunks.relief:
            super()._attend_dense(q, k, v, kv, out, plan)
            return
        past = gather_past(kv, chunks.past, q.dtype, self._scales)
        sums = q.new_empty(q.shape[:2], dtype=torch.float32)
        launch_dense(self._config, q, k, v, past, out, plan.batch, chunks.dense, sums)
        for part in chunks.relief:
            keys, values = (x[part.past] for x in past)
            found, found_sums = fused_attention(q[part.rows], keys, values, 1, self._config.scale, causal=False)
            assert found_sums is not None
            merge(out[part.rows], sums[part.rows], found, found_sums)


def fused_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, count: int, scale: float, *, causal: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Call cuDNN for sequences of one length, one after the other.

    Args:
        q: [count * n, heads, head size], heads contiguous as in k and v.
        k, v: [count * m, kv heads, head size]; n = m with ``causal``.
        count: sequences.
        scale: factor on products.

    Returns:
        [count * n, heads, head size], contiguous; and without ``causal`` natural log-sum-exps, float32 [count * n, heads]
        of any strides.
    """
    batched = (x.view(count, -1, *x.shape[1:]).transpose(1, 2) for x in (q, k, v))
    result = torch.ops.aten._scaled_dot_product_cudnn_attention(
        *batched, None, not causal, 0.0, causal, False, scale=scale
    )
    out: torch.Tensor = result[0].transpose(1, 2).reshape(q.shape)
    if causal:
        return out, None
    sums: torch.Tensor = result[1].view(*result[1].shape[:3]).transpose(1, 2)
    return out, sums[0] if count == 1 else sums.flatten(0, 1)


@cache
def _compile(kv_heads: int, head_size: int, dtype: torch.dtype, device: torch.device) -> None:
    """Have cuDNN compile its kernels, which takes it half a second each, before the first request has to wait for it."""
    q = torch.zeros(WARM_UP[0], 4 * kv_heads, head_size, dtype=dtype, device=device)
    k = torch.zeros(WARM_UP[1], kv_heads, head_size, dtype=dtype, device=device)
    fused_attention(q, k[: WARM_UP[0]], k[: WARM_UP[0]], 1, 1.0, causal=True)
    for rows in (ROWS_STEP, WARM_UP[0]):
        fused_attention(q[:rows], k, k, 1, 1.0, causal=False)
