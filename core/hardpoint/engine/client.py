"""The way to an engine, whether it runs in this process or in one of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from hardpoint.engine.messages import EngineOutputs, EngineRequest


class EngineInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What a client must know about the engine behind it.

    Attributes:
        model: the model's name.
        max_model_len: longest sequence in tokens, prompt and output together.
        vocab_size: ids are below this.
        num_blocks: usable cache blocks.
        block_size: tokens per block.
        config: the configuration after adjustments, as plain data.
        description: what was chosen: platform, device, op providers, attention backends and refusals, memory report.
    """

    model: str
    max_model_len: int
    vocab_size: int
    num_blocks: int
    block_size: int
    config: dict[str, Any]
    description: dict[str, Any]


class EngineClient(Protocol):
    """Requests go in, outputs come out. ``add`` and ``abort`` may be called from any thread, ``poll`` from one."""

    info: EngineInfo

    def add(self, request: EngineRequest) -> None:
        """Hand a validated request to the engine.

        Raises:
            EngineDeadError: when the engine ended.
        """

    def abort(self, handles: Sequence[int]) -> None:
        """End sequences now; unknown and finished ones are ignored. Each live one still gets a ``Finish("abort")``."""

    def poll(self, timeout: float | None = None) -> EngineOutputs | None:
        """Wait up to ``timeout`` seconds (``None``: as long as it takes) for the outputs of a step; ``None`` if none came.

        In process this runs the step.

        Raises:
            EngineDeadError: when the engine ended; the text holds the cause.
        """

    def reset_prefix_cache(self) -> bool:
        """Forget cached prefixes; ``False`` when running requests hold some of them (those blocks stay)."""

    def close(self) -> None: ...
