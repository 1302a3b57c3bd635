"""What an executor says to its worker processes and what they answer."""

from __future__ import annotations

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


class RunStep(msgspec.Struct, frozen=True, tag=True):
    """Run a step; rank 0 answers with a ``StepResult``, the others only when they fail."""

    plan: StepPlan


Command = Load | GetKVSpecs | GetBlockBytes | GetKVBudget | Start | Describe | RunStep


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
