"""The KV cache's memory: one tensor per layer position, shared by the KV groups through block ids."""

from __future__ import annotations

import torch

from hardpoint.contract.attention import KVLayout
from hardpoint.contract.device import Device
from hardpoint.contract.errors import MemoryBudgetError
from hardpoint.contract.kv import KVPlan
from hardpoint.contract.step import Int32s


class KVPool:
    """Allocates the cache and copies blocks.

    Args:
        plan: how the cache is divided.
        layouts: per attention layer its layout for ``plan.num_blocks`` blocks; layers that share a tensor agree.
        device: where the cache lives.

    Raises:
        MemoryBudgetError: when the memory is not there.
    """

    def __init__(self, plan: KVPlan, layouts: tuple[KVLayout, ...], device: Device) -> None:
        self.plan = plan
        self._tensors: list[torch.Tensor] = []
        self._axes: list[int] = []
        try:
            for position in range(plan.num_tensors):
                layers = [group.layers[position] for group in plan.groups if position < len(group.layers)]
                layout = layouts[layers[0]]
                dtype = getattr(torch, layout.dtype)
                # Not cleared: attention never lets a slot that was not written reach a result, and clearing touches every page.
                self._tensors.append(torch.empty(layout.shape, dtype=dtype, device=device.torch_device))
                self._axes.append(layout.block_axis)
        except (RuntimeError, MemoryError) as error:
            if not device.is_oom(error):
                raise
            wanted = sum(layout.block_bytes for layout in layouts[: plan.num_tensors]) * plan.num_blocks
            raise MemoryBudgetError(
                f"the KV cache of {plan.num_blocks} blocks ({wanted / 2**30:.2f} GiB) does not fit on the device; "
                "lower --kv-cache-memory or --memory-fraction"
            ) from error

    def layer(self, index: int) -> torch.Tensor:
        """Return the cache of attention layer ``index``."""
        for group in self.plan.groups:
            if index in group.layers:
                return self._tensors[group.layers.index(index)]
        raise KeyError(index)

    def copy(self, pairs: Int32s) -> None:
        """Copy blocks: int32[c, 2] of (source, destination), in every layer."""
        if not len(pairs):
            return
        for held, axis in zip(self._tensors, self._axes, strict=True):
            # Copying knows no 8-bit floating-point types.
            tensor = held.view(torch.uint8) if held.element_size() == 1 else held
            source, destination = torch.from_numpy(pairs.astype("int64")).to(tensor.device).unbind(1)
            tensor.index_copy_(axis, destination, tensor.index_select(axis, source))

    @property
    def bytes(self) -> int:
        """Bytes that the cache takes."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self._tensors)
