"""Where a rank's memory goes: what a step may take, estimated before the first one runs, and what is taken, item by item."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from hardpoint.contract.device import Device
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


class MemoryReport:
    """What a rank's device memory holds, in bytes.

    Args:
        device: whose memory it is.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._items: dict[str, int] = {}
        self._plans: dict[str, int] = {}

    def set(self, what: str, count: int) -> None:
        """Say how much an item holds."""
        self._items[what] = count

    def plan(self, what: str, count: int) -> None:
        """Say what a decision was based on; such lines add up to nothing."""
        self._plans[what] = count

    @contextmanager
    def measured(self, what: str, *, tensors: bool = True) -> Iterator[None]:
        """Add what the block takes to an item, where the device tells what its allocator holds.

        Args:
            what: the item.
            tensors: whether its tensors count, or what the allocator holds for it whether tensors live there or not.
        """
        count = self._used if tensors else self._held
        before = count()
        yield
        after = count()
        if before is not None and after is not None:
            self._items[what] = self._items.get(what, 0) + max(0, after - before)

    def lines(self) -> list[tuple[str, int]]:
        """Return plans, items, what else tensors hold, what the allocator and the driver hold, and what is free."""
        memory, held, known = self._device.memory(), self._held(), sum(self._items.values())
        lines = [*self._plans.items(), *self._items.items()]
        if held is not None and memory.used is not None:
            # A prepared step's memory is the allocator's, not a tensor's, while the step does not run.
            lines.append(("other tensors", max(0, memory.used - known)))
            lines.append(("allocator, unused", max(0, held - max(known, memory.used))))
        if memory.driver is not None:
            lines.append(("driver: context, kernels, libraries", memory.driver))
        if memory.free is not None:
            lines.append(("free", memory.free))
        return lines

    def _used(self) -> int | None:
        memory = self._device.memory()
        return None if memory.cached is None else memory.used

    def _held(self) -> int | None:
        memory = self._device.memory()
        return None if memory.used is None or memory.cached is None else memory.used + memory.cached
