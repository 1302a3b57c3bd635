"""What an executor says to its worker processes and what they answer."""

from __future__ import annotations

from pathlib import Path

import msgspec

from hardpoint.contract.kv import KVPlan, KVSpec
from hardpoint.contract.step import StepPlan


class Load(msgspec.Struct, frozen=True, tag=True):
    """Build the model and fill its weights."""


class GetKVSpecs(msgspec.Struct, frozen=True, tag=True):
    """Answer with ``tuple[KVSpec, ...]``."""


class GetBlockBytes(msgspec.Struct, frozen=True, tag=True):
    """Answer with the bytes of one block of one layer."""

    spec: KVSpec
    block_size: int


class GetKVBudget(msgspec.Struct, frozen=True, tag=True):
    """Answer with a ``KVBudget``."""


class Start(msgspec.Struct, frozen=True, tag=True):
    """Allocate the cache."""

    kv: KVPlan


class Describe(msgspec.Struct, frozen=True, tag=True):
    """Answer with the runner's description."""


class Idle(msgspec.Struct, frozen=True, tag=True):
    """Answer with whether there is more to do in idle moments."""


class StartProfile(msgspec.Struct, frozen=True, tag=True):
    """Begin to record; answer with why not, or ``None``."""


class StopProfile(msgspec.Struct, frozen=True, tag=True):
    """End it and write the trace, whose path is made of rank 0's; answer with why not, or ``None``."""

    path: str


class RunStep(msgspec.Struct, frozen=True, tag=True):
    """Run a step; rank 0 answers with a ``StepResult``, the others only when they fail."""

    plan: StepPlan


def rank_path(path: str, rank: int) -> str:
    """Return where a rank's trace goes: ``trace.json`` for rank 0, ``trace.rank1.json`` for rank 1."""
    first = Path(path)
    return path if rank == 0 else str(first.with_name(f"{first.stem}.rank{rank}{first.suffix}"))


Command = (
    Load | GetKVSpecs | GetBlockBytes | GetKVBudget | Start | Describe | Idle | StartProfile | StopProfile | RunStep
)


class Reply(msgspec.Struct, frozen=True, tag=True):
    """The answer to a command, encoded; the asker knows its type."""

    data: bytes


class Failed(msgspec.Struct, frozen=True, tag=True):
    """A command or the child itself failed.

    Attributes:
        error_type: class name, looked up in ``hardpoint.contract.errors``.
        message: the error's text.
        trace: the child's traceback, for logs.
    """

    error_type: str
    message: str
    trace: str = ""


Answer = Reply | Failed
