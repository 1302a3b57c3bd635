"""What a model's layers keep per token, how it is laid out, and how it is divided into blocks."""

from __future__ import annotations

from dataclasses import dataclass

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "float8_e4m3fn": 1, "float8_e5m2": 1, "int8": 1}
#: Short names of ``--kv-cache-dtype``.
KV_DTYPE_ALIASES = {"fp8": "float8_e4m3fn", "fp8_e4m3": "float8_e4m3fn", "fp8_e5m2": "float8_e5m2"}


@dataclass(frozen=True, slots=True, kw_only=True)
class KVSpec:
    """The cache of one attention layer on one rank.

    Attributes:
        num_kv_heads: key/value heads held by this rank.
        head_size: elements of one key (and value) head.
        dtype: element type by torch's name, e.g. ``"bfloat16"``.
        window: sliding window in tokens, the current one included; ``None`` attends to everything.
    """

    num_kv_heads: int
    head_size: int
    dtype: str
    window: int | None = None

    @property
    def token_bytes(self) -> int:
        """Bytes that one token takes in this layer: one key and one value per head."""
        return 2 * self.num_kv_heads * self.head_size * DTYPE_BYTES[self.dtype]


@dataclass(frozen=True, slots=True, kw_only=True)
class KVGroup:
    """Layers that share a block table because they need the same tokens at the same time.

    Attributes:
        window: the sliding window of these layers, or ``None`` for full attention.
        layers: indices of attention layers, in the order in which they take the pool's tensors: the i-th layer of every
            group lives in tensor i, so one block id means one block in each tensor, whichever group owns it.
    """

    window: int | None
    layers: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class KVPlan:
    """How the cache is divided. Block 0 is the null block: never allocated, never read for a result.

    Attributes:
        block_size: tokens in one block.
        num_blocks: blocks in the pool, block 0 included.
        groups: at least one, even for a model without attention layers (then the group has no layers).
    """

    block_size: int
    num_blocks: int
    groups: tuple[KVGroup, ...]

    @property
    def num_tensors(self) -> int:
        """Number of layer tensors that the pool holds: the size of the largest group."""
        return max((len(group.layers) for group in self.groups), default=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class KVBudget:
    """What a runner can spend on the cache: bytes, or a fixed number of blocks where memory cannot be read.

    Attributes:
        block_size: tokens per block that the runner's kernels were built for.
        bytes: bytes for the whole cache, or ``None`` when ``num_blocks`` is given.
        num_blocks: blocks, for devices that fix it.
        report: ``(what, bytes)`` lines that explain the number: weights, activations, reserve, free.
    """

    block_size: int
    bytes: int | None = None
    num_blocks: int | None = None
    report: tuple[tuple[str, int], ...] = ()
