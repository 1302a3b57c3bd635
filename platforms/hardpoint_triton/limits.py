"""What a GPU runs in one step. Imports no torch: platforms say so before a device is opened."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hardpoint.contract.limits import BatchLimits

if TYPE_CHECKING:
    from hardpoint.config import EngineConfig
    from hardpoint.contract.platform import ModelShape

#: Tokens of one step: enough for products at full rate, few enough that running requests do not wait long.
STEP_TOKENS: Final = 8192
LARGE_DEVICE: Final = 70 * 2**30


def step_limits(total_bytes: int | None, model: ModelShape, config: EngineConfig) -> BatchLimits:
    """Return the limits of a GPU with ``total_bytes`` of memory: what the user asked for, else by its size."""
    tokens = config.scheduler.max_num_batched_tokens
    if tokens is None:
        large = (total_bytes or 0) >= LARGE_DEVICE
        whole_prompt = 0 if config.scheduler.enable_chunked_prefill else config.model.max_model_len or model.context
        tokens = max(STEP_TOKENS if large else STEP_TOKENS // 4, config.scheduler.max_num_seqs, whole_prompt)
    return BatchLimits(max_tokens=tokens, max_requests=min(config.scheduler.max_num_seqs, tokens))
