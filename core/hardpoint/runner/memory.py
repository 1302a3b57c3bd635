"""How much memory a step may take beside weights and cache, estimated before the first one runs."""

from __future__ import annotations

from hardpoint.contract.kv import DTYPE_BYTES
from hardpoint.contract.limits import BatchLimits
from hardpoint.contract.platform import ModelShape

#: Tensors of [tokens, hidden] that are alive at once in a decoder layer: residual, normed, attention in and out, and
#: an intermediate of four hidden sizes twice (gate and up).
_HIDDEN_TENSORS = 12
#: Copies of [rows, vocab] in float32 while sampling: logits, processed, probabilities, sorted, cumulative.
_LOGIT_TENSORS = 5


def activation_bytes(shape: ModelShape, limits: BatchLimits, ranks: int, dtype: str) -> int:
    """Return an upper estimate in bytes of one step's temporary tensors on one rank."""
    heads = (shape.num_heads + 2 * shape.num_kv_heads) * shape.head_size // ranks
    per_token = (_HIDDEN_TENSORS * shape.hidden_size + 2 * heads) * DTYPE_BYTES[dtype]
    rows = min(limits.max_requests, limits.max_tokens)
    return limits.max_tokens * per_token + rows * shape.vocab_size * 4 * _LOGIT_TENSORS
