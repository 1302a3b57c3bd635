"""Errors that say what, why and what to do next."""

from __future__ import annotations


class HardpointError(Exception):
    """Base of everything that Hardpoint raises on purpose."""


class ConfigError(HardpointError, ValueError):
    """A setting cannot be served. The text names the value, the reason and the way out."""


class PluginError(HardpointError, RuntimeError):
    """A selected plugin cannot be used; the text names its distribution, version, the cause and the alternatives."""


class CheckpointError(HardpointError, RuntimeError):
    """A checkpoint is missing something, is damaged, or does not fit its configuration."""


class UnsupportedModelError(ConfigError):
    """No installed plugin can run the architecture."""


class MemoryBudgetError(ConfigError):
    """The model or its cache does not fit."""


class RequestError(HardpointError, ValueError):
    """A request is invalid; it is refused alone. ``field`` names the offending parameter where there is one."""

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class ContextLengthError(RequestError):
    """Prompt and requested output are longer than the model's context."""


class QueueFullError(HardpointError, RuntimeError):
    """The queue limit is reached; the caller may try again later."""


class StepFailedError(HardpointError, RuntimeError):
    """A step raised and the engine goes on: requests under way ended with this error and may be sent again."""


class ProfileError(HardpointError, RuntimeError):
    """A profile cannot be begun, ended or written."""


class EngineDeadError(HardpointError, RuntimeError):
    """The engine process or loop ended; the text holds the cause."""


class WorkerDiedError(HardpointError, RuntimeError):
    """A worker process is gone."""


def error_named(name: str, message: str) -> HardpointError:
    """Return the error of class ``name`` from this module, or an ``EngineDeadError`` that names the foreign class."""
    kind = globals().get(name)
    if isinstance(kind, type) and issubclass(kind, HardpointError):
        return kind(message)
    return EngineDeadError(f"{name}: {message}" if message else name)
