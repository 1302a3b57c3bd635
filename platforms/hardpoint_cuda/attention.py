"""The attention backend ``cudnn``: steps of equal long prompts through cuDNN's fused attention, all else through Triton.

On an H200 cuDNN attends at 580 TFLOP/s to two prompts of 4,096 tokens, the Triton kernel at 510, but cuDNN has to plan
every shape anew for about 40 ms, so only shapes that come again and again are worth it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np
import torch

from hardpoint.contract.attention import AttentionLayerConfig, BatchView, HeadRotation
from hardpoint_triton import rope_kernels
from hardpoint_triton.attention import TritonAttention, TritonLayer, TritonPlan, TritonPlanner

if TYPE_CHECKING:
    from hardpoint.contract.device import Device
    from hardpoint.contract.kv import KVSpec
    from hardpoint.contract.limits import BatchLimits

LEAST_TOKENS: Final = 512
#: Steps of a shape before cuDNN plans it: what a plan costs is made up for by some twenty more.
LEAST_STEPS: Final = 8
HEAD_SIZES: Final = (64, 128)


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
    """Recognises steps of equal prompts, and counts them."""

    def __init__(self, device: Device, spec: KVSpec, block_size: int, limits: BatchLimits) -> None:
        super().__init__(device, spec, block_size, limits)
        self._seen: Counter[tuple[int, int]] = Counter()

    def plan(self, batch: BatchView) -> CudnnPlan:
        plain = super().plan(batch)
        return CudnnPlan(batch, plain.decodes, plain.chunks, self._prompts(batch))

    def _prompts(self, batch: BatchView) -> int:
        if batch.num_decodes or batch.max_query_len < LEAST_TOKENS:
            return 0
        lengths = np.diff(batch.query_start_host)
        if not (np.array_equal(lengths, batch.seq_lens_host) and (lengths == lengths[0]).all()):
            return 0
        shape = batch.num_requests, int(lengths[0])
        self._seen[shape] += 1
        return batch.num_requests if self._seen[shape] > LEAST_STEPS else 0


class CudnnLayer(TritonLayer):
    """The kernels of one layer."""

    def __init__(self, config: AttentionLayerConfig, block_size: int) -> None:
        super().__init__(config, block_size)
        plain = config.window is None and config.soft_cap is None and not config.sinks
        self._served = plain and config.head_size in HEAD_SIZES

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
        fits = self._served and kv.dtype == qkv.dtype and qkv.dtype in (torch.bfloat16, torch.float16)
        if not (plan.prompts and fits):
            return super().forward_fused(qkv, rotation, positions, slots, kv, plan, sinks)
        config = self._config
        parts = rope_kernels.norm_rope_write(
            qkv, rotation, config.num_heads, config.num_kv_heads, config.head_size, positions, slots, kv
        )
        return causal_attention(*parts, plan.prompts, config.scale)


def causal_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, prompts: int, scale: float) -> torch.Tensor:
    """Call cuDNN for prompts of one length, one after the other.

    Args:
        q, k, v: [T, heads, head size], heads contiguous.
        prompts: how many; a divisor of T.
        scale: factor on products.

    Returns:
        [T, heads, head size], contiguous.
    """
    batched = (x.unflatten(0, (prompts, -1)).transpose(1, 2) for x in (q, k, v))
    result = torch.ops.aten._scaled_dot_product_cudnn_attention(*batched, None, False, 0.0, True, False, scale=scale)
    out: torch.Tensor = result[0].transpose(1, 2).reshape(q.shape)
    return out
