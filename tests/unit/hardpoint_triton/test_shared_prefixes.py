"""Which decoding requests are found to begin with the same blocks."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("triton")

from hardpoint_triton.cascade import MEMBERS, STEP, Prefixes, PrefixFinder

BLOCK = 16
WIDTH = 300


def finder() -> PrefixFinder:
    """Return a finder for the layers of an 8B model in 16 bits."""
    return PrefixFinder(BLOCK, num_kv_heads=8, head_size=128, token_bytes=4096)


def table(groups: list[tuple[int, int]], alone: int = 0) -> np.ndarray:
    """Return a table of groups of (members, shared blocks), each row with blocks of its own behind, and rows alone."""
    ids = iter(range(1, 10**7))
    rows = []
    for members, shared in groups:
        common = [next(ids) for _ in range(shared)]
        rows += [common + [next(ids) for _ in range(WIDTH - shared)] for _ in range(members)]
    rows += [[next(ids) for _ in range(WIDTH)] for _ in range(alone)]
    return np.array(rows, np.int32)


def find(matrix: np.ndarray, lengths: int | np.ndarray) -> Prefixes | None:
    """Return what a new finder finds in all rows of ``matrix``."""
    return finder().find(np.arange(len(matrix), dtype=np.int32), matrix, np.full(len(matrix), lengths, np.int32))


def check(found: Prefixes, matrix: np.ndarray) -> None:
    """Assert that tiles cover the members of groups once, and that members share what they are said to share."""
    covered: list[int] = []
    for first, count, leader, tokens in found.tiles.tolist():
        assert 0 < count <= MEMBERS
        assert tokens > 0
        assert tokens % STEP == 0
        members = found.members[first : first + count].tolist()
        covered += members
        for member in members:
            assert found.skipped[member] == tokens
            assert (matrix[member, : tokens // BLOCK] == matrix[leader, : tokens // BLOCK]).all()
    assert sorted(covered) == np.flatnonzero(found.skipped).tolist()


def test_all_rows_share() -> None:
    matrix = table([(100, 130)])
    found = find(matrix, 2200)
    assert found is not None
    check(found, matrix)
    assert (found.skipped == 130 * BLOCK // STEP * STEP).all()


def test_groups_with_prefixes_of_their_own_and_rows_alone() -> None:
    matrix = table([(40, 64), (70, 200)], alone=5)
    shuffled = np.random.default_rng(0).permutation(len(matrix))
    found = find(matrix[shuffled], 4000)
    assert found is not None
    check(found, matrix[shuffled])
    assert sorted(set(found.skipped.tolist())) == [0, 64 * BLOCK, 200 * BLOCK]
    assert (found.skipped == 0).sum() == 5


def test_a_long_prefix_of_some_beats_a_short_one_of_all() -> None:
    matrix = table([(60, 200)], alone=60)
    matrix[:, :8] = matrix[0, :8]
    found = find(matrix, 4000)
    assert found is not None
    check(found, matrix)
    assert (found.skipped[:60] == 200 * BLOCK).all()
    assert not found.skipped[60:].any()


@pytest.mark.parametrize("length", [1025, 1024, 1030])
def test_the_block_that_is_being_written_is_not_shared(length: int) -> None:
    matrix = table([(100, WIDTH)])
    found = find(matrix, length)
    assert found is not None
    check(found, matrix)
    assert (found.skipped < length).all()
    assert (found.skipped == (length - 1) // STEP * STEP).all()


def test_nothing_pays_where_little_is_shared() -> None:
    assert find(table([], alone=200), 4000) is None
    assert find(table([(200, 7)]), 4000) is None
    assert find(table([(2, 32)]), 4000) is None
    assert find(np.zeros((0, WIDTH), np.int32), 0) is None
    assert find(table([(1, 10)]), 1) is None


def test_the_answer_is_kept_while_nothing_changes() -> None:
    matrix, search = table([(100, 130)]), finder()
    rows, lengths = np.arange(90, dtype=np.int32), np.full(90, 2200, np.int32)
    found = search.find(rows, matrix, lengths)
    matrix[:, 140:] += 1000
    assert search.find(rows, matrix, lengths + 5) is found


def test_a_row_that_holds_another_request_is_seen() -> None:
    matrix, search = table([(100, 130)]), finder()
    rows, lengths = np.arange(100, dtype=np.int32), np.full(100, 2200, np.int32)
    search.find(rows, matrix, lengths)
    # It begins like the others and goes its own way.
    matrix[7, 20:] += 10**7
    found = search.find(rows, matrix, lengths)
    assert found is not None
    check(found, matrix)
    # What the row's last request left behind its blocks is not its own.
    matrix[7] = matrix[6]
    shorter = lengths.copy()
    search.find(rows, matrix, lengths)
    shorter[7] = 40
    found = search.find(rows, matrix, shorter)
    assert found is not None
    assert not found.skipped[7]
    check(found, matrix)
    fewer = search.find(rows[:50], matrix, lengths[:50])
    assert fewer is not None
    assert len(fewer.skipped) == 50
    check(fewer, matrix)
