"""Which part of a prompt is cached already, for all groups of layers at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hardpoint.blocks.hashing import PrefixChain
from hardpoint.blocks.pool import BlockPool, Ids


@dataclass(frozen=True, slots=True)
class PrefixHit:
    """A cached prefix.

    Attributes:
        num_blocks: its length in blocks.
        blocks: per group int32[num_blocks], block ids; 0 where a window needs the block no more.
    """

    num_blocks: int
    blocks: tuple[Ids, ...]


def first_needed(position: int, window: int | None, block_size: int) -> int:
    """Return the first block column that the token at ``position`` and later ones attend to."""
    return 0 if window is None else max(position - window + 1, 0) // block_size


def find_prefix(
    pool: BlockPool, windows: Sequence[int | None], block_size: int, chain: PrefixChain, most: int
) -> PrefixHit:
    """Find the longest cached prefix of at most ``most`` blocks that every group can serve.

    A group with full attention needs every block of the prefix, one with a window only those that the next token still
    sees. Full groups are asked first and stop at the first miss, so that no digest beyond it is computed; groups with a
    window then shorten the prefix in turn until none does.

    Args:
        pool: with one index per group.
        windows: per group, tokens seen, the current one included; ``None`` is all.
        block_size: tokens per block.
        chain: digests of the prompt, which has at least ``most`` full blocks.
        most: bound on the answer.
    """
    full = [index for index, window in zip(pool.index, windows, strict=True) if window is None]
    length = chain.match(full, most) if full else most
    limited = [(index, w) for index, w in zip(pool.index, windows, strict=True) if w is not None]
    settled = 0
    while length and settled < len(limited):
        for index, limit in limited:
            shorter = _trailing(index, limit, block_size, chain, length)
            settled = 1 if shorter < length else settled + 1
            length = shorter
    digests = chain.digests
    blocks = []
    for index, window in zip(pool.index, windows, strict=True):
        first = first_needed(length * block_size, window, block_size)
        ids = np.zeros(length, np.int32)
        ids[first:] = [index[digest] for digest in digests[first:length]]
        blocks.append(ids)
    return PrefixHit(length, tuple(blocks))


def _trailing(index: dict[bytes, int], window: int, block_size: int, chain: PrefixChain, most: int) -> int:
    """Return the longest prefix of at most ``most`` blocks whose last window is cached in one group."""
    length = end = most
    while length:
        # Blocks [end, length) are cached; the window of the next token starts at `first`.
        first = first_needed(length * block_size, window, block_size)
        while end > first and chain.digest(end - 1) in index:
            end -= 1
        if end <= first:
            return length
        end -= 1
        length = end
    return 0
