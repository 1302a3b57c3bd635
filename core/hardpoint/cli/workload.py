"""Random prompts of given lengths, the same for the same seed."""

from __future__ import annotations

import click
import numpy as np

from hardpoint.bench.workloads import Load
from hardpoint.contract.errors import ConfigError


def random_loads(
    count: int, input_len: int, output_len: int, vocab_size: int, *, ratio: float = 0.0, seed: int = 0
) -> list[Load]:
    """Return ``count`` requests with lengths uniform in ``[len * (1 - ratio), len * (1 + ratio)]``.

    Ids stay clear of the vocabulary's first tenth (at most 1,000 ids), where control tokens live.
    """
    if not 0.0 <= ratio < 1.0:
        raise ConfigError(f"random_range_ratio is {ratio}; it must be at least 0 and below 1")
    numbers = np.random.default_rng(seed)
    lowest = min(1000, vocab_size // 10)

    def length(mean: int) -> int:
        return int(numbers.integers(max(1, round(mean * (1 - ratio))), round(mean * (1 + ratio)) + 1))

    return [
        Load(numbers.integers(lowest, vocab_size, size=length(input_len)).tolist(), length(output_len))
        for _ in range(count)
    ]


#: Options that every benchmark with random prompts takes.
LENGTH = click.IntRange(min=1)
RATIO_HELP = "Spread of lengths: uniform in [len * (1 - R), len * (1 + R)]."
