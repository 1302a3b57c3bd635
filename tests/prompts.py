"""Prompts that tests share."""

from __future__ import annotations

import numpy as np


def prompts_with_shared_prefixes(count: int, vocab: int, seed: int = 0) -> list[list[int]]:
    """Return prompts of 1 to 90 tokens; every third one extends the one before it."""
    rng = np.random.default_rng(seed)
    prompts: list[list[int]] = []
    for i in range(count):
        body = rng.integers(3, vocab, size=int(rng.integers(1, 60))).tolist()
        prompts.append(prompts[-1] + body[:30] if i % 3 == 2 else body)
    return prompts
