"""Layers are grouped by window, and the cache is divided so that a sequence always fits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardpoint.contract.errors import MemoryBudgetError
from hardpoint.contract.kv import KVBudget, KVSpec
from hardpoint.engine.kv_groups import group_layers, plan_kv


def spec(window: int | None = None, heads: int = 2) -> KVSpec:
    return KVSpec(num_kv_heads=heads, head_size=8, dtype="float32", window=window)


def test_one_kind_is_one_group() -> None:
    groups = group_layers([spec()] * 4, 1024)
    assert [(g.window, g.layers) for g in groups] == [(None, (0, 1, 2, 3))]


def test_interleaved_windows_split_into_groups_of_equal_size() -> None:
    """Five windowed layers to one full layer, as Gemma 3 has them."""
    specs = [spec(None if i % 6 == 5 else 512) for i in range(12)]
    groups = group_layers(specs, 4096)
    assert {len(g.layers) for g in groups} == {2}
    assert [g.window for g in groups].count(None) == 1
    assert sorted(layer for g in groups for layer in g.layers) == list(range(12))


def test_a_window_as_long_as_the_context_is_full_attention() -> None:
    groups = group_layers([spec(512), spec()], 512)
    assert [(g.window, g.layers) for g in groups] == [(None, (0, 1))]


def test_layers_of_different_size_share_no_tensor() -> None:
    groups = group_layers([spec(heads=2), spec(512, heads=4)], 4096)
    assert [(g.window, g.layers) for g in groups] == [(None, (0, 1))]


@given(
    st.lists(st.sampled_from([None, 16, 64]), min_size=1, max_size=30),
    st.integers(1, 64),
    st.integers(1, 200),
    st.integers(1, 64),
    st.integers(0, 10**6),
)
def test_a_plan_holds_one_longest_sequence_or_is_refused(
    windows: list[int | None], block_size: int, length: int, requests: int, size: int
) -> None:
    """Every layer is in exactly one group, and the pool never exceeds the budget or what is useful."""
    specs = [spec(w) for w in windows]
    budget = KVBudget(block_size=block_size, bytes=size)
    try:
        plan = plan_kv(
            specs, budget, lambda s, b: s.token_bytes * b, max_model_len=length, max_requests=requests, max_tokens=32
        )
    except MemoryBudgetError:
        groups = group_layers(specs, length)
        tensors = max(len(g.layers) for g in groups)
        blocks_of_one = len(groups) * -(-length // block_size) + 1
        assert size < blocks_of_one * tensors * block_size * specs[0].token_bytes
        return
    assert sorted(layer for g in plan.groups for layer in g.layers) == list(range(len(specs)))
    assert plan.num_tensors * plan.num_blocks * block_size * specs[0].token_bytes <= size
    assert plan.num_blocks - 1 <= len(plan.groups) * -(-length // block_size) * requests


def test_too_little_memory_says_how_long_a_sequence_fits() -> None:
    with pytest.raises(MemoryBudgetError, match=r"one sequence of --max-model-len 100 tokens takes 7 blocks"):
        plan_kv(
            [spec()],
            KVBudget(block_size=16, num_blocks=4),
            lambda s, b: s.token_bytes * b,
            max_model_len=100,
            max_requests=1,
            max_tokens=32,
        )
