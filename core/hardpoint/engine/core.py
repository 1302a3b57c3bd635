"""The door to an engine: one function that starts it where the caller wants it."""

from __future__ import annotations

from hardpoint.config import EngineConfig
from hardpoint.engine.client import EngineClient


def make_client(config: EngineConfig, *, in_process: bool) -> EngineClient:
    """Start an engine and return its client.

    Args:
        config: what to run.
        in_process: whether the engine runs in this process (steps run inside ``poll``) or in one of its own.

    Raises:
        ConfigError, PluginError, CheckpointError, MemoryBudgetError: what is wrong and the way out.
    """
    if in_process:
        from hardpoint.engine.assembly import assemble
        from hardpoint.engine.in_process import InProcessClient

        return InProcessClient(*assemble(config))
    from hardpoint.engine.process import ProcessClient

    return ProcessClient(config)
