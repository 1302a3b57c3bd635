"""The pool: what is free, what is cached, what goes first."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hardpoint.blocks import BlockPool


def ids(*blocks: int) -> np.ndarray:
    return np.array(blocks, np.int32)


def test_all_blocks_but_the_null_block_can_be_taken():
    pool = BlockPool(5)
    taken = pool.take(4)
    assert sorted(taken.tolist()) == [1, 2, 3, 4]
    assert pool.num_free == 0
    with pytest.raises(RuntimeError, match="1 blocks are asked for and 0 are free"):
        pool.take(1)
    pool.release(taken)
    assert pool.num_free == 4


def test_a_pool_of_the_null_block_alone_is_refused():
    with pytest.raises(ValueError, match="num_blocks is 1"):
        BlockPool(1)


def test_blank_blocks_are_taken_before_cached_ones_and_those_least_recently_used_first():
    pool = BlockPool(7)
    taken = pool.take(4)
    for block in taken.tolist():
        pool.register(0, [b"%d" % block], [block])
    first, second, third, fourth = taken.tolist()
    pool.release(ids(third))
    pool.release(ids(first, second))
    pool.release(ids(fourth))
    assert set(pool.take(2).tolist()) == {5, 6}
    # Of a sequence's blocks the last goes first, so that the prefix lives longer.
    assert [pool.take(1).tolist()[0] for _ in range(4)] == [third, second, first, fourth]
    assert pool.index == ({},)


def test_a_cached_block_comes_back_with_its_content():
    pool = BlockPool(3)
    block = int(pool.take(1)[0])
    pool.register(0, [b"digest"], [block])
    pool.release(ids(block))
    assert pool.num_idle(ids(block, 0)) == 1
    pool.hold(ids(block))
    assert pool.num_free == 1
    assert pool.index[0][b"digest"] == block
    pool.hold(ids(block))
    pool.release(ids(block))
    assert pool.num_free == 1
    pool.release(ids(block))
    assert pool.num_free == 2


def test_the_first_block_with_a_digest_keeps_it():
    pool = BlockPool(3)
    first, second = pool.take(2).tolist()
    pool.register(0, [b"same"], [first])
    pool.register(0, [b"same"], [second])
    assert pool.index[0][b"same"] == first
    pool.release(ids(second))
    pool.release(ids(first))
    pool.check(np.zeros(3, np.int32))


def test_groups_have_indexes_of_their_own():
    pool = BlockPool(3, num_groups=2)
    first, second = pool.take(2).tolist()
    pool.register(0, [b"same"], [first])
    pool.register(1, [b"same"], [second])
    assert (pool.index[0][b"same"], pool.index[1][b"same"]) == (first, second)


def test_the_null_block_is_never_counted():
    pool = BlockPool(3)
    pool.hold(ids(0, 0))
    pool.release(ids(0))
    pool.register(0, [b"null"], [0])
    pool.check(np.zeros(3, np.int32))


def test_forgotten_blocks_are_not_found_whether_held_or_free():
    pool = BlockPool(3)
    held, free = pool.take(2).tolist()
    pool.register(0, [b"held"], [held])
    pool.register(0, [b"free"], [free])
    pool.release(ids(free))
    pool.forget(ids(held, free))
    assert pool.index == ({},)
    pool.check(np.bincount([held], minlength=3).astype(np.int32))


def test_reset_keeps_what_is_held_and_says_so():
    pool = BlockPool(3)
    held, free = pool.take(2).tolist()
    pool.register(0, [b"held"], [held])
    pool.register(0, [b"free"], [free])
    pool.release(ids(free))
    assert not pool.reset()
    assert list(pool.index[0]) == [b"held"]
    pool.release(ids(held))
    assert pool.reset()
    assert pool.index == ({},)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["take", "hold", "release", "register", "forget"]), st.integers(0, 30))))
def test_references_and_index_agree_with_a_plain_account(events):
    pool = BlockPool(9)
    owned: list[int] = []
    digests: dict[bytes, int] = {}
    for name, number in events:
        if name == "take" and number % 4 <= pool.num_free:
            owned += pool.take(number % 4).tolist()
        elif name == "release" and owned:
            pool.release(ids(owned.pop(number % len(owned))))
        elif name == "register" and owned:
            pool.register(0, [b"%d" % number], [owned[number % len(owned)]])
        elif name == "hold" and (found := sorted(pool.index[0].values())):
            owned.append(found[number % len(found)])
            pool.hold(ids(owned[-1]))
        elif name == "forget" and owned:
            pool.forget(ids(owned[number % len(owned)]))
        pool.check(np.bincount(owned, minlength=9).astype(np.int32))
        digests = dict(pool.index[0])
    assert set(digests.values()) <= set(range(1, 9))
