"""Cache blocks: the pool, block tables, chain hashes and prefix lookup. Integers and numpy, no device, no torch."""

from hardpoint.blocks.hashing import BlockHasher, PrefixChain
from hardpoint.blocks.pool import BlockPool
from hardpoint.blocks.prefix import PrefixHit, find_prefix
from hardpoint.blocks.tables import BlockTables

__all__ = ["BlockHasher", "BlockPool", "BlockTables", "PrefixChain", "PrefixHit", "find_prefix"]
