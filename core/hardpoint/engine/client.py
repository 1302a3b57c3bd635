"""The way to an engine, whether it runs in this process or in one of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from hardpoint.engine.messages import EngineInfo, EngineOutputs, EngineRequest

__all__ = ["EngineClient", "EngineInfo"]


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

    def start_profile(self) -> None:
        """Begin to record what host and device do; from any thread.

        Raises:
            ProfileError: when it cannot be recorded.
        """

    def stop_profile(self, path: str) -> None:
        """End it and write a Chrome trace to ``path`` on the engine's machine.

        Raises:
            ProfileError: when nothing was recorded, or the file cannot be written.
        """

    def close(self) -> None: ...
