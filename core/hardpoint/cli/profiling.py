"""``--profile FILE`` of the benchmarks: one more run, recorded, after those that are timed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import click

from hardpoint.llm import LLM

PROFILE: Final = click.option(
    "--profile",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Record one more run into this file, a Chrome trace (Perfetto) with the host's segments and the device's kernels.",
)


@contextmanager
def profiled(llm: LLM, path: Path) -> Iterator[None]:
    """Record what the block makes the engine do, and write the trace to ``path``.

    Raises:
        ProfileError: when it cannot be recorded or written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    llm.start_profile()
    yield
    llm.stop_profile(path)
