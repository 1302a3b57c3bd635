"""Randomness by seed and position."""

from __future__ import annotations

import numpy as np
import pytest

from hardpoint.runner.sampling.seeds import stream, uniforms


def test_it_is_splitmix64() -> None:
    # The first outputs of the reference implementation (Vigna, splitmix64.c) for the state 1234567.
    state = np.full(3, 1234567, np.uint64)
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert uniforms(state, np.arange(3)).tolist() == [(value >> 11) * 2.0**-53 for value in expected]


def test_numbers_are_uniform_and_streams_unrelated() -> None:
    streams = np.array([stream(seed) for seed in range(200)], np.uint64)
    drawn = np.stack([uniforms(streams, np.full(200, position)) for position in range(200)])
    assert drawn.min() >= 0.0
    assert drawn.max() < 1.0
    counts = np.bincount((drawn.ravel() * 50).astype(int), minlength=50)
    expected = drawn.size / 50
    # 49 degrees of freedom: 99.9 % of draws lie below 85.4.
    assert ((counts - expected) ** 2 / expected).sum() < 85.4
    for other in (drawn[1:, :-1], drawn[:-1, 1:], drawn[1:, 1:]):
        base = {other.shape: drawn[: other.shape[0], : other.shape[1]]}[other.shape]
        assert abs(np.corrcoef(base.ravel(), other.ravel())[0, 1]) < 0.02
    assert len(np.unique(drawn)) == drawn.size


@pytest.mark.parametrize(("one", "other"), [(-1, 2**64 - 1), (-(2**63), 2**63), (5, 5 + 2**64)])
def test_seeds_wrap_around_at_64_bits(one: int, other: int) -> None:
    assert stream(one) == stream(other)


def test_a_number_depends_on_its_own_seed_and_position_only() -> None:
    streams = np.array([stream(seed) for seed in (7, 8, 9)], np.uint64)
    together = uniforms(streams, np.array([100, 5, 31], np.int32))
    assert uniforms(streams[1:2], np.array([5], np.int64))[0] == together[1]
