"""Events that an engine announces. Few, coarse, one way, and never for a token.

A plugin of kind ``events`` is an object with methods marked :data:`hookimpl` and named like those of :class:`EventSpecs`;
a method may take any of the event's parameters, by name, and leaves out the ones that it does not need. What it returns is
ignored. An implementation that raises is logged by name and the others still run; one whose descriptor has
``data={"critical": True}`` ends what was being done instead.

All events come from the process that runs the engine's loop, on its thread: an implementation that waits makes everybody
wait.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pluggy

if TYPE_CHECKING:
    from hardpoint.config import EngineConfig
    from hardpoint.engine.client import EngineInfo
    from hardpoint.engine.messages import FinishReason, SchedulerStats
    from hardpoint.plugins import Selection

PROJECT: Final = "hardpoint"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class EventSpecs:
    """The events, in the order in which they happen."""

    @hookspec
    def plugins_selected(self, selection: tuple[Selection, ...]) -> None:
        """The plugins that may be loaded are known; none but those of kind ``events`` has been imported."""

    @hookspec
    def config_ready(self, config: EngineConfig) -> None:
        """The configuration is final: model resolved, platform chosen, every adjustment applied and recorded in it."""

    @hookspec
    def engine_starting(self, config: EngineConfig) -> None:
        """Devices are about to be opened."""

    @hookspec
    def model_loaded(self, model: str, seconds: float) -> None:
        """Weights are in place, ``seconds`` after ``engine_starting``; the cache is not divided yet."""

    @hookspec
    def engine_started(self, info: EngineInfo) -> None:
        """The engine takes requests."""

    @hookspec
    def request_added(self, request_id: str, num_prompt: int) -> None:
        """A request of ``num_prompt`` tokens joined the queue."""

    @hookspec
    def request_finished(self, request_id: str, reason: FinishReason, num_prompt: int, num_generated: int) -> None:
        """One sequence of a request ended."""

    @hookspec
    def metrics(self, stats: SchedulerStats) -> None:
        """Numbers of the engine, about once a second while there is work."""

    @hookspec
    def engine_failed(self, cause: str) -> None:
        """The engine ends because of an error; requests under way have been given it."""

    @hookspec
    def engine_stopping(self) -> None:
        """The engine was told to end; devices are still open."""
