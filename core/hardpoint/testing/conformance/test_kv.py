"""The cache's memory: blocks are copied whole and alone, in every backend's layout and element type."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hardpoint.contract.attention import AttentionBackend, AttentionQuery
from hardpoint.contract.device import Device
from hardpoint.contract.kv import KVGroup, KVPlan, KVSpec
from hardpoint.contract.platform import Platform
from hardpoint.plugins import Catalogue
from hardpoint.runner.kv_pool import KVPool
from hardpoint.testing.conformance.plugin import refuse

_BLOCKS, _LAYERS, _HEADS, _SIZE = 9, 3, 2, 64


@pytest.fixture(scope="module")
def backends(platform: Platform, catalogue: Catalogue) -> dict[str, AttentionBackend]:
    """The platform's, by name."""
    return {name: catalogue.create("attention_backends", name) for name in platform.attention_backends()}


@pytest.mark.parametrize("kv_dtype", ["", "float8_e4m3fn", "float8_e5m2"])
def test_copied_blocks_are_equal_and_the_others_untouched(
    kv_dtype: str, backends: dict[str, AttentionBackend], device: Device
) -> None:
    dtype = device.caps.preferred_dtype
    kind = kv_dtype or dtype
    if kv_dtype and kv_dtype not in device.caps.kv_dtypes:
        refuse(f"the device keeps no cache in {kv_dtype}")
    spec = KVSpec(num_kv_heads=_HEADS, head_size=_SIZE, dtype=kind)
    for backend in backends.values():
        block_size = (backend.block_sizes() or (16,))[0]
        query = AttentionQuery(
            head_size=_SIZE,
            num_heads=_HEADS,
            num_kv_heads=_HEADS,
            dtype=dtype,
            kv_dtype=kind,
            block_size=block_size,
            arch=device.info.arch,
        )
        if backend.reject(query):
            continue
        layout = backend.layout(spec, block_size, _BLOCKS)
        plan = KVPlan(
            block_size=block_size, num_blocks=_BLOCKS, groups=(KVGroup(window=None, layers=tuple(range(_LAYERS))),)
        )
        pool = KVPool(plan, (layout,) * _LAYERS, device)
        raw = [pool.layer(layer).view(torch.uint8) for layer in range(_LAYERS)]
        for at, memory in enumerate(raw):
            memory.copy_(
                torch.randint(0, 255, memory.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(at))
            )
        before = [memory.cpu().clone() for memory in raw]
        pool.copy(np.array([[2, 5], [7, 1]], np.int32))
        axis = layout.block_axis
        for memory, old in zip(raw, before, strict=True):
            now = memory.cpu()
            expected = old.clone()
            for source, target in ((2, 5), (7, 1)):
                expected.select(axis, target).copy_(old.select(axis, source))
            assert torch.equal(now, expected)
        assert pool.bytes == _LAYERS * _BLOCKS * layout.block_bytes
