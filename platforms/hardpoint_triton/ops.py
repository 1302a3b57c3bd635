"""The op provider ``triton``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Final

from hardpoint_triton import (
    activation_kernels,
    embed_kernels,
    moe,
    moe_routing_kernels,
    norm_kernels,
    rope_kernels,
    sampling_best_kernels,
    sampling_draw_kernels,
    sampling_logprob_kernels,
    sampling_step_kernels,
    sampling_top_k_kernels,
)

OPS: Final[Mapping[str, Callable[..., Any]]] = {
    "embed": embed_kernels.embed,
    "rms_norm": norm_kernels.rms_norm,
    "silu_mul": activation_kernels.silu_mul,
    "gelu_mul": activation_kernels.gelu_mul,
    "qk_norm_rope": rope_kernels.qk_norm_rope,
    "best_token": sampling_best_kernels.best_token,
    "decode_inputs": sampling_step_kernels.decode_inputs,
    "apply_penalties": sampling_logprob_kernels.apply_penalties,
    "top_logprobs": sampling_logprob_kernels.top_logprobs,
    "gather_logprobs": sampling_logprob_kernels.gather_logprobs,
    "top_k_tokens": sampling_top_k_kernels.top_k_tokens,
    "sample_top_k": sampling_top_k_kernels.sample_top_k,
    "sample_full": sampling_draw_kernels.sample_full,
    "keep_tokens": sampling_step_kernels.keep_tokens,
    "topk_router": moe_routing_kernels.topk_router,
    "moe": moe.moe,
    "routed_moe": moe.routed_moe,
}


class TritonOps:
    """Fused ops for any GPU that Triton compiles for."""

    name: ClassVar[str] = "triton"

    @property
    def ops(self) -> Mapping[str, Callable[..., Any]]:
        return OPS

    def reject(self, op: str, arch: str, dtype: str) -> list[str]:
        if not arch.startswith(("sm", "gfx")):
            return [f"Triton compiles for GPUs, not for {arch}"]
        return []
