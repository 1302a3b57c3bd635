"""How layers are grouped and how many blocks the cache gets."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hardpoint.contract.errors import MemoryBudgetError
from hardpoint.contract.kv import KVBudget, KVGroup, KVPlan, KVSpec


def group_layers(specs: Sequence[KVSpec], max_model_len: int) -> tuple[KVGroup, ...]:
    """Divide attention layers into groups of one window each and of about equal size.

    Equal sizes let one pool serve all groups: a block id stands for one block in each of the pool's tensors, and the i-th
    layer of every group lives in tensor i. A group smaller than the largest leaves some of its blocks' memory unused.
    Layers whose per-token size differs cannot share a tensor; such a model gets a single group of full attention (its
    windows still hold inside the kernels, only their blocks are not given back early). A window that covers the longest
    sequence is full attention.

    Args:
        specs: per attention layer, in layer order.
        max_model_len: longest sequence in tokens.
    """
    if len({(s.num_kv_heads, s.head_size, s.dtype) for s in specs}) > 1:
        return (KVGroup(window=None, layers=tuple(range(len(specs)))),)
    kinds: dict[int | None, list[int]] = {}
    for layer, spec in enumerate(specs):
        window = spec.window if spec.window is not None and spec.window < max_model_len else None
        kinds.setdefault(window, []).append(layer)
    if not kinds:
        return (KVGroup(window=None, layers=()),)
    size = min(len(layers) for layers in kinds.values())
    return tuple(
        KVGroup(window=window, layers=tuple(layers[i : i + size]))
        for window, layers in kinds.items()
        for i in range(0, len(layers), size)
    )


def plan_kv(
    specs: Sequence[KVSpec],
    budget: KVBudget,
    block_bytes: Callable[[KVSpec, int], int],
    *,
    max_model_len: int,
    max_requests: int,
    max_tokens: int,
) -> KVPlan:
    """Return the cache's plan: groups, and as many blocks as the budget holds and the requests can use.

    Args:
        specs: per attention layer, in layer order.
        budget: what the runner can spend.
        block_bytes: (spec, block size) -> bytes of one block in one layer.
        max_model_len: longest sequence in tokens.
        max_requests: sequences that run at the same time.
        max_tokens: tokens of one step, the longest chunk.

    Raises:
        MemoryBudgetError: when the cache cannot hold one sequence of ``max_model_len`` tokens.
    """
    size, groups = budget.block_size, group_layers(specs, max_model_len)
    per_sequence = sum(_blocks_of_sequence(group, size, max_model_len, max_tokens) for group in groups)
    tensors = max(len(group.layers) for group in groups)
    per_block = (
        max(sum(block_bytes(specs[layer], size) for layer in group.layers) for group in groups) if tensors else 0
    )
    useful = per_sequence * max_requests + 1
    if budget.num_blocks is not None:
        blocks = budget.num_blocks
    elif per_block == 0:
        blocks = useful
    else:
        blocks = min(useful, (budget.bytes or 0) // per_block)
    if blocks - 1 < per_sequence:
        fits = max(0, blocks - 1) * size // len(groups)
        raise MemoryBudgetError(
            f"the KV cache holds {max(0, blocks - 1)} blocks of {size} tokens; one sequence of --max-model-len "
            f"{max_model_len} tokens takes {per_sequence} blocks ({per_sequence * per_block / 2**20:.0f} MiB). "
            f"Lower --max-model-len to about {fits} or raise --kv-cache-memory"
        )
    return KVPlan(block_size=size, num_blocks=blocks, groups=groups)


def _blocks_of_sequence(group: KVGroup, block_size: int, max_model_len: int, chunk: int) -> int:
    """Return the blocks that a group holds at most for one sequence while a chunk of it is computed."""
    tokens = max_model_len if group.window is None else min(max_model_len, group.window - 1 + chunk)
    return min(-(-tokens // block_size) + (group.window is not None), -(-max_model_len // block_size))
