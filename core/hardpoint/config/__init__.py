"""EngineConfig: everything that decides how an engine runs, frozen, in parts.

Flags, keyword arguments of ``LLM`` and the manifest are derived from these fields and from nothing else. The first
sentence of a field's ``help`` is the flag's help text; ``flag`` names it where the spelling differs from the field.
"""

from hardpoint.config.engine import AppliedAdjustment, EngineConfig, apply_adjustments
from hardpoint.config.parts import (
    CacheConfig,
    ModelConfig,
    ParallelConfig,
    PlatformConfig,
    PluginConfig,
    SchedulerConfig,
)

__all__ = [
    "AppliedAdjustment",
    "CacheConfig",
    "EngineConfig",
    "ModelConfig",
    "ParallelConfig",
    "PlatformConfig",
    "PluginConfig",
    "SchedulerConfig",
    "apply_adjustments",
]
