"""The workloads that engines are compared on: prompts of seeded token ids, and how many tokens to generate for each.

Every engine gets the same ids and must return the same number of tokens, as nothing ends early. The generators are those
that the published numbers of other engines were taken with, draw for draw.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from hardpoint.contract.errors import ConfigError

#: Control tokens live below this id, in vocabularies that are larger.
_FIRST_ID: Final = 1000
#: Ids are below this one, so that models with different vocabularies get the same prompts.
_LAST_ID: Final = 100_000


@dataclass(frozen=True, slots=True)
class Load:
    """One request of a benchmark: its prompt's ids, and the tokens to generate."""

    prompt: list[int]
    output_len: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """A workload by name.

    Attributes:
        name: as in the tables.
        summary: what it is, in a line.
        generate: vocabulary size, seed -> requests.
        repetitions: how often it is run when nobody says.
        counts: what is told of it, ``"latency"`` (first token, per token), ``"output"`` or ``"total"`` tokens per second,
            or ``"seconds"``.
    """

    name: str
    summary: str
    generate: Callable[[int, int], list[Load]]
    repetitions: int = 3
    counts: str = "output"


def fixed(count: int, prompt: int, output: int, vocab_size: int, seed: int = 0) -> list[Load]:
    """Return requests of equal lengths."""
    numbers = np.random.default_rng(seed)
    return [Load(_ids(numbers, prompt, vocab_size), output) for _ in range(count)]


def mixed(count: int, vocab_size: int, seed: int = 0, least: int = 100, most: int = 1024) -> list[Load]:
    """Return requests with prompt and output lengths uniform in ``[least, most]``."""
    numbers = np.random.default_rng(seed)
    return [
        Load(_ids(numbers, int(numbers.integers(least, most + 1)), vocab_size), int(numbers.integers(least, most + 1)))
        for _ in range(count)
    ]


def shared_prefix(count: int, prefix: int, suffix: int, output: int, vocab_size: int, seed: int = 0) -> list[Load]:
    """Return requests whose prompts begin alike."""
    numbers = np.random.default_rng(seed)
    head = _ids(numbers, prefix, vocab_size)
    return [Load(head + _ids(numbers, suffix, vocab_size), output) for _ in range(count)]


def scaled(load: Load, scale: float) -> Load:
    """Return a request with ``scale`` times the prompt and output tokens, at least one of each."""
    return Load(load.prompt[: max(1, round(len(load.prompt) * scale))], max(1, round(load.output_len * scale)))


def _ids(numbers: np.random.Generator, count: int, vocab_size: int) -> list[int]:
    lowest = _FIRST_ID if vocab_size > _FIRST_ID else vocab_size // 10
    drawn: list[int] = numbers.integers(lowest, min(vocab_size, _LAST_ID), size=count).tolist()
    return drawn


def _fixed(count: int, prompt: int, output: int) -> Callable[[int, int], list[Load]]:
    return lambda vocab_size, seed: fixed(count, prompt, output, vocab_size, seed)


_ALL: Final = (
    Workload(
        name="latency_b1",
        summary="one request, 1,024 tokens in, 256 out",
        generate=_fixed(1, 1024, 256),
        counts="latency",
    ),
    Workload(name="batch_32", summary="32 requests at once, 1,024 in, 256 out", generate=_fixed(32, 1024, 256)),
    Workload(name="batch_128", summary="128 requests at once, 1,024 in, 256 out", generate=_fixed(128, 1024, 256)),
    Workload(
        name="prefill_64x4096",
        summary="64 prompts of 4,096 tokens, 1 out",
        generate=_fixed(64, 4096, 1),
        counts="total",
    ),
    Workload(
        name="mixed_512",
        summary="512 requests, in and out uniform in 100 to 1,024",
        generate=lambda vocab_size, seed: mixed(512, vocab_size, seed),
    ),
    Workload(
        name="shared_prefix_256",
        summary="256 requests that share a prefix of 2,048 tokens, 128 of their own, 64 out",
        generate=lambda vocab_size, seed: shared_prefix(256, 2048, 128, 64, vocab_size, seed),
        counts="seconds",
    ),
    Workload(
        name="long_32k_b8",
        summary="8 prompts of 30,000 tokens, 128 out",
        generate=_fixed(8, 30000, 128),
        counts="seconds",
    ),
)
#: Name -> workload, in the order of the tables.
WORKLOADS: Final[Mapping[str, Workload]] = MappingProxyType({workload.name: workload for workload in _ALL})


def named(names: Any) -> list[Workload]:
    """Return workloads by name; all of them for no names.

    Raises:
        ConfigError: for a name that is none.
    """
    wanted = list(names) or list(WORKLOADS)
    if unknown := [name for name in wanted if name not in WORKLOADS]:
        raise ConfigError(f"there is no workload {unknown[0]!r}; there are {', '.join(WORKLOADS)}")
    return [WORKLOADS[name] for name in wanted]
