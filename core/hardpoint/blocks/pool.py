"""The pool of cache blocks: reference counts, the index of cached blocks, and eviction.

A block is in one of three states. *Held*: its reference count is positive. *Blank*: nobody holds it and its content is
worthless. *Cached*: nobody holds it, but its content may serve a prompt again. Blank blocks are taken first, then cached
ones, least recently used first; both are free. Block 0 is the null block: it is never taken, and holding or releasing it
has no effect.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int32]


class BlockPool:
    """Blocks ``1 .. num_blocks - 1`` shared by ``num_groups`` groups of layers.

    Raises:
        ValueError: when there is no block beside the null block.
    """

    def __init__(self, num_blocks: int, num_groups: int = 1) -> None:
        if num_blocks < 2:
            raise ValueError(f"num_blocks is {num_blocks}; block 0 is the null block, so at least 2 are needed")
        self.num_blocks = num_blocks
        #: Per group: digest of a block's prefix -> the block that holds it.
        self.index: tuple[dict[bytes, int], ...] = tuple({} for _ in range(num_groups))
        self._references = np.zeros(num_blocks, np.int32)
        self._hashed = np.zeros(num_blocks, np.bool_)
        self._digest: list[bytes] = [b""] * num_blocks
        self._group: list[int] = [0] * num_blocks
        self._blank: list[int] = list(range(num_blocks - 1, 0, -1))
        self._cached: OrderedDict[int, None] = OrderedDict()

    @property
    def usable(self) -> int:
        """Blocks that can be held: all but the null block."""
        return self.num_blocks - 1

    @property
    def num_free(self) -> int:
        """Blocks that nobody holds, cached ones included."""
        return len(self._blank) + len(self._cached)

    def take(self, count: int) -> Ids:
        """Take ``count`` free blocks, each with one reference; cached content of those taken is forgotten.

        Returns:
            int32[count] block ids.

        Raises:
            RuntimeError: when fewer are free; nothing is taken then.
        """
        if count > self.num_free:
            raise RuntimeError(f"{count} blocks are asked for and {self.num_free} are free")
        blank = self._blank
        cut = max(len(blank) - count, 0)
        taken = blank[cut:]
        del blank[cut:]
        for _ in range(count - len(taken)):
            block, _none = self._cached.popitem(last=False)
            self._unhash(block)
            taken.append(block)
        ids = np.array(taken, np.int32)
        self._references[ids] = 1
        return ids

    def hold(self, ids: Ids) -> None:
        """Add one reference to each of ``ids`` (distinct but for null blocks), which may be free and cached."""
        references = self._references
        for block in ids[references[ids] == 0].tolist():
            if block:
                del self._cached[block]
        references[ids] += 1
        references[0] = 0

    def num_idle(self, ids: Ids) -> int:
        """Return how many of ``ids`` nobody holds: what holding them takes from :attr:`num_free`."""
        return int(np.count_nonzero((self._references[ids] == 0) & (ids != 0)))

    def release(self, ids: Ids) -> None:
        """Drop one reference to each of ``ids`` (repetitions count); blocks that nobody holds any more become free.

        The last of ``ids`` is evicted first, so that a prefix outlives what followed it.
        """
        references = self._references
        np.subtract.at(references, ids, 1)
        references[0] = 1
        free = ids[references[ids] == 0]
        references[0] = 0
        if not len(free):
            return
        hashed = self._hashed[free]
        # Through a dict, because a block that several rows gave up in one call comes several times.
        self._blank.extend(dict.fromkeys(free[~hashed].tolist()))
        self._cached.update(dict.fromkeys(free[hashed][::-1].tolist()))

    def register(self, group: int, digests: Iterable[bytes], blocks: Iterable[int]) -> None:
        """Index held blocks under their prefixes' digests; the first block with a digest keeps it."""
        index, known = self.index[group], self._digest
        for digest, block in zip(digests, blocks, strict=True):
            if block and digest not in index and not known[block]:
                index[digest] = block
                known[block] = digest
                self._group[block] = group
                self._hashed[block] = True

    def forget(self, ids: Ids) -> None:
        """Take ``ids`` out of the index, because their content is not what their digest says."""
        for block in ids[self._hashed[ids]].tolist():
            self._unhash(block)
            if block in self._cached:
                del self._cached[block]
                self._blank.append(block)

    def reset(self) -> bool:
        """Forget all cached content that nobody holds; ``False`` when held blocks stay indexed."""
        for block in self._cached:
            self._unhash(block)
        self._blank.extend(self._cached)
        self._cached.clear()
        return not any(self.index)

    def _unhash(self, block: int) -> None:
        del self.index[self._group[block]][self._digest[block]]
        self._hashed[block] = False
        self._digest[block] = b""

    def check(self, expected: Ids) -> None:
        """Check every invariant. ``expected`` is int32[num_blocks], the references that the owners know of.

        Raises:
            AssertionError: naming the first broken invariant.
        """
        wrong = np.flatnonzero(self._references != expected)
        assert not len(wrong), (
            f"references of blocks {wrong[:8]} are {self._references[wrong[:8]]}, not {expected[wrong[:8]]}"
        )
        free = [*self._blank, *self._cached]
        assert len(free) == len(set(free)), "a block is free twice"
        assert 0 not in free, "the null block is free"
        held = set(np.flatnonzero(self._references).tolist())
        assert held.isdisjoint(free), f"blocks {sorted(held.intersection(free))[:8]} are both held and free"
        assert len(held) + len(free) == self.usable, f"{self.usable - len(held) - len(free)} blocks are lost"
        indexed = {block: (group, digest) for group, index in enumerate(self.index) for digest, block in index.items()}
        assert len(indexed) == sum(map(len, self.index)), "a block is indexed twice"
        assert set(indexed) == set(np.flatnonzero(self._hashed).tolist()), "index and flags differ"
        assert all(indexed[b] == (self._group[b], self._digest[b]) for b in indexed), "index and digests differ"
        assert all(b in indexed for b in self._cached), "a cached block is not indexed"
        assert not any(self._hashed[b] for b in self._blank), "a blank block is indexed"
