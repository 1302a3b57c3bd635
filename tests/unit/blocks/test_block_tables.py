"""Block tables: columns, windows, and what the runner is told."""

from __future__ import annotations

import numpy as np
import pytest

from hardpoint.blocks import BlockPool, BlockTables
from hardpoint.blocks.tables import span_blocks


def tables(windows=(None,), *, blocks: int = 40, block_size: int = 4, max_tokens: int = 40) -> BlockTables:
    return BlockTables(BlockPool(blocks, len(windows)), windows, block_size, 4, max_tokens)


@pytest.mark.parametrize("block_size", [1, 2, 3, 16])
@pytest.mark.parametrize("tokens", [0, 1, 2, 5, 16, 17, 33])
def test_span_is_the_most_blocks_that_tokens_touch(tokens, block_size):
    touched = [len({p // block_size for p in range(begin, begin + tokens)}) for begin in range(block_size)]
    assert span_blocks(tokens, block_size) == max(touched)


def test_extending_several_rows_at_once_tells_each_entry():
    table = tables((None, 5))
    rows = np.array([2, 0])
    table.extend(rows, np.array([2, 1], np.int32))
    table.extend(rows[:1], np.array([1], np.int32))
    told = table.take_changes()
    assert table.take_changes() is None
    entries = {
        (row, group, column): block for row, group, column, block in zip(*(a.tolist() for a in told), strict=True)
    }
    assert len(entries) == 8 == len(set(entries.values()))
    for (row, group, column), block in entries.items():
        assert table.ids[group][row, column] == block
    assert table.columns.tolist() == [1, 0, 3, 0]
    assert all(array.dtype == np.int32 for array in told)


def test_a_cleared_row_is_not_told_and_gives_all_blocks_back():
    table = tables((None, 5))
    table.extend(np.array([1, 3]), np.array([2, 2], np.int32))
    table.clear(1)
    rows, *_rest = table.take_changes()
    assert set(rows.tolist()) == {3}
    table.clear(3)
    table.pool.check(np.zeros(40, np.int32))
    assert not table.columns.any()


def test_blocks_leave_a_window_one_by_one_or_at_once():
    one, other = tables((None, 6)), tables((None, 6))
    for table in (one, other):
        table.extend(np.array([0, 1]), np.array([5, 5], np.int32))
    one.trim(np.array([0, 1]), np.array([17, 9], np.int32))
    other.trim_row(0, 17)
    other.trim_row(1, 9)
    for table in (one, other):
        # The token at 17 sees 12 .. 17, the one at 9 sees 4 .. 9.
        assert table.first.tolist() == [[0, 0, 0, 0], [3, 1, 0, 0]]
        assert table.ids[1][0, :3].tolist() == [0, 0, 0]
        assert (table.ids[0][0, :5] > 0).all()
        table.clear(0)
        table.clear(1)
        assert table.pool.num_free == 39


def test_no_more_columns_than_the_longest_sequence_needs():
    assert tables(max_tokens=10).columns_for(100) == 3
    assert tables(max_tokens=10).columns_for(8) == 2


def test_peaks_count_windows_and_chunks():
    table = tables((None, 6), max_tokens=100)
    # 13 columns in full; a window of 6 with chunks of 4 spans at most 9 tokens: 3 blocks.
    assert table.peak_blocks(50, 4) == 13 + 3
    assert table.peak_blocks(50, 50) == 13 + 13
    assert table.peak_blocks(4, 4) == 2
