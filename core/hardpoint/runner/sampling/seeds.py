"""Randomness: one number per seed and position, whatever was drawn before or beside it."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

UInt64s = npt.NDArray[np.uint64]
Float64s = npt.NDArray[np.float64]

_GAMMA: Final = np.uint64(0x9E3779B97F4A7C15)
_MASK: Final = 2**64 - 1


def stream(seed: int) -> np.uint64:
    """Return where the stream of a seed starts; negative seeds are read as two's complement, larger ones modulo 2**64.

    Seeds are scrambled first: the streams of neighbouring seeds would otherwise be one stream, shifted.
    """
    return np.uint64(_mixed(np.array([seed & _MASK], np.uint64))[0])


def uniforms(streams: UInt64s, positions: npt.NDArray[np.integer]) -> Float64s:
    """Return float64[n] in [0, 1): the numbers at ``positions`` of ``streams``, with 53 random bits each.

    The generator is SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", OOPSLA 2014). Its
    state is a counter, so any position is reached at once: nothing has to be kept or restored when a sequence moves.
    """
    counters = streams + positions.astype(np.uint64) * _GAMMA
    return (_mixed(counters) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mixed(counters: UInt64s) -> UInt64s:
    z = counters + _GAMMA
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
