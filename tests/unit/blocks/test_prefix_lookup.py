"""Digests and the longest cached prefix."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hardpoint.blocks import BlockHasher, BlockPool, PrefixChain, find_prefix
from hardpoint.blocks.prefix import first_needed

SECRET = bytes(range(32))


def chain_of(tokens: list[int], block_size: int, *keys: str | None, secret: bytes = SECRET) -> PrefixChain:
    hasher = BlockHasher(block_size, secret)
    return PrefixChain(hasher, hasher.root(*keys), np.array(tokens, np.int32).tobytes())


def test_a_digest_is_salted_blake2b_over_parent_and_tokens():
    chain = chain_of([1, 2, 3, 4], 2)
    tokens = np.array([1, 2, 3, 4], np.int32).tobytes()
    parent = chain.root
    for block in range(2):
        state = hashlib.blake2b(
            parent + tokens[8 * block : 8 * block + 8], digest_size=16, salt=SECRET[:16], person=SECRET[16:]
        )
        parent = state.digest()
        assert chain.digest(block) == parent


def test_secrets_differ_unless_given():
    assert BlockHasher(4).root() != BlockHasher(4).root()
    assert BlockHasher(4, SECRET).root() == BlockHasher(4, SECRET).root()
    with pytest.raises(ValueError, match="5 bytes"):
        BlockHasher(4, b"short")


@pytest.mark.parametrize(
    "keys", [("ab", "c"), ("a", "bc"), ("abc", None), (None, "abc"), ("", None), (None, ""), (None, None), ("", "")]
)
def test_keys_are_told_apart(keys):
    others = [("ab", "c"), ("a", "bc"), ("abc", None), (None, "abc"), ("", None), (None, ""), (None, None), ("", "")]
    hasher = BlockHasher(4, SECRET)
    assert [other for other in others if hasher.root(*other) == hasher.root(*keys)] == [keys]


def test_a_digest_depends_on_all_tokens_before_it():
    one, other = chain_of([1, 2, 3, 4, 5, 6], 2), chain_of([9, 2, 3, 4, 5, 6], 2)
    assert all(one.digest(block) != other.digest(block) for block in range(3))


def test_nothing_is_hashed_after_the_first_miss():
    pool = BlockPool(9)
    chain = chain_of(list(range(16)), 2)
    for column, block in enumerate(pool.take(3).tolist()):
        pool.register(0, [chain.digest(column)], [block])
    fresh = chain_of(list(range(16)), 2)
    assert find_prefix(pool, (None,), 2, fresh, 8).num_blocks == 3
    assert len(fresh.digests) == 4
    # Digests known already are used again.
    assert find_prefix(pool, (None,), 2, fresh, 2).num_blocks == 2
    assert len(fresh.digests) == 4


def test_appended_and_restarted_chains_equal_one_made_at_once():
    whole = chain_of(list(range(8)), 2)
    expected = [whole.digest(block) for block in range(4)]
    part = chain_of([0, 1, 2, 3], 2)
    part.digest(1)
    part.append(np.array([4, 5], np.int32).tobytes())
    part.restart(np.arange(8, dtype=np.int32).tobytes())
    assert [part.digest(block) for block in range(4)] == expected
    assert whole.fork(2).digest(3) == expected[3]


def brute_force(pool: BlockPool, windows, block_size: int, digests: list[bytes], most: int) -> int:
    for length in range(most, 0, -1):
        if all(
            digest in index
            for index, window in zip(pool.index, windows, strict=True)
            for digest in digests[first_needed(length * block_size, window, block_size) : length]
        ):
            return length
    return 0


@settings(max_examples=200, deadline=None)
@given(
    block_size=st.integers(1, 4),
    windows=st.lists(st.sampled_from([None, None, 1, 2, 3, 5, 9]), min_size=1, max_size=3),
    cached=st.lists(st.lists(st.booleans(), min_size=8, max_size=8), min_size=3, max_size=3),
    most=st.integers(0, 8),
)
def test_the_hit_is_the_longest_that_every_group_can_serve(block_size, windows, cached, most):
    pool = BlockPool(64, len(windows))
    tokens = list(range(8 * block_size))
    chain = chain_of(tokens, block_size)
    digests = [chain.digest(block) for block in range(8)]
    for group in range(len(windows)):
        for column in range(8):
            if cached[group][column]:
                pool.register(group, [digests[column]], pool.take(1).tolist())
    hit = find_prefix(pool, windows, block_size, chain_of(tokens, block_size), most)
    assert hit.num_blocks == brute_force(pool, windows, block_size, digests, most)
    for group, window in enumerate(windows):
        first = first_needed(hit.num_blocks * block_size, window, block_size)
        expected = [pool.index[group][digest] for digest in digests[first : hit.num_blocks]]
        assert hit.blocks[group].tolist() == [0] * min(first, hit.num_blocks) + expected
