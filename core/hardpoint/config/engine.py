"""The whole configuration, made from flat names, and changed only through recorded adjustments."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from hardpoint.config.parts import (
    CacheConfig,
    ModelConfig,
    ParallelConfig,
    PlatformConfig,
    PluginConfig,
    SchedulerConfig,
)
from hardpoint.contract.errors import ConfigError
from hardpoint.contract.platform import Adjustment

_UNITS = {"": 1, "k": 1000, "ki": 2**10, "m": 10**6, "mi": 2**20, "g": 10**9, "gi": 2**30, "t": 10**12, "ti": 2**40}
_SIZES = frozenset({"kv_cache_memory", "max_model_len", "max_num_batched_tokens", "max_body_size"})


@dataclass(frozen=True, slots=True, kw_only=True)
class AppliedAdjustment:
    """A setting that was changed: which, from what to what, by which plugin and why."""

    field: str
    old: Any
    new: Any
    plugin: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """Everything that decides how an engine runs.

    Attributes:
        model, cache, scheduler, parallel, platform, plugins: the parts.
        adjustments: what changed since the user spoke, in order.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    platform: PlatformConfig = field(default_factory=PlatformConfig)
    plugins: PluginConfig = field(default_factory=PluginConfig)
    adjustments: tuple[AppliedAdjustment, ...] = ()

    @classmethod
    def of(cls, **flat: Any) -> EngineConfig:
        """Make a configuration from flat names, e.g. ``EngineConfig.of(model="x", block_size=32)``.

        Raises:
            ConfigError: for a name that is no setting (with the nearest one) or a value of the wrong type.
        """
        known = {name: (part, setting) for part, setting in settings() for name in names(setting)}
        values: dict[str, dict[str, Any]] = {}
        for name, value in flat.items():
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else "; see `hardpoint serve --help` for all settings"
                raise ConfigError(f"there is no setting {name!r}{hint}")
            part, setting = known[name]
            values.setdefault(part, {})[setting.name] = coerce(setting, value)
        return cls(**{part: PARTS[part](**given) for part, given in values.items()})

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, part by part."""
        return dataclasses.asdict(self)


PARTS: dict[str, Any] = {
    "model": ModelConfig,
    "cache": CacheConfig,
    "scheduler": SchedulerConfig,
    "parallel": ParallelConfig,
    "platform": PlatformConfig,
    "plugins": PluginConfig,
}


def settings() -> Iterator[tuple[str, dataclasses.Field[Any]]]:
    """Yield ``(part, field)`` for every setting."""
    for part, kind in PARTS.items():
        for setting in dataclasses.fields(kind):
            yield part, setting


def names(setting: dataclasses.Field[Any]) -> tuple[str, ...]:
    """Return the keyword names of a setting: its own and its aliases."""
    return (setting.name, *setting.metadata["aliases"])


@functools.cache
def _hints(owner: type | None) -> dict[str, Any]:
    owners = PARTS.values() if owner is None else (owner,)
    return {name: hint for kind in owners for name, hint in typing.get_type_hints(kind).items()}


def type_of(setting: dataclasses.Field[Any], owner: type | None = None) -> tuple[Any, bool]:
    """Return ``(type, optional)`` of a setting, e.g. ``(int, True)`` for ``int | None``.

    Args:
        setting: the field.
        owner: the class that the field belongs to, ``None`` for a part of :class:`EngineConfig`.
    """
    hint = _hints(owner)[setting.name]
    if isinstance(hint, types.UnionType):
        return next(a for a in typing.get_args(hint) if a is not types.NoneType), True
    return hint, False


def coerce(setting: dataclasses.Field[Any], value: Any, owner: type | None = None) -> Any:
    """Turn a user's value (possibly text) into the setting's type; ``owner`` as in :func:`type_of`.

    Raises:
        ConfigError: when it cannot be one.
    """
    kind, optional = type_of(setting, owner)
    if value is None:
        if optional:
            return None
        raise ConfigError(f"{setting.name} is None; it needs a value")
    choices = setting.metadata["choices"]
    if choices and value not in choices:
        dtype = str(value).removeprefix("torch.")
        if dtype not in choices:
            raise ConfigError(f"{setting.name} is {value!r}; it must be one of {', '.join(choices)}")
        value = dtype
    try:
        return _convert(setting.name, kind, value)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{setting.name} is {value!r}; {error}") from error


def _convert(name: str, kind: Any, value: Any) -> Any:
    if kind is bool:
        if isinstance(value, bool):
            return value
        raise ValueError("it must be true or false")
    if kind is int:
        if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
            raise ValueError("it must be a whole number")
        if name in _SIZES and isinstance(value, str):
            return parse_size(value)
        return _number(int, value, "it must be a whole number")
    if kind is float:
        return _number(float, value, "it must be a number")
    if kind is str:
        if not isinstance(value, str):
            raise ValueError("it must be text")
        return value
    if typing.get_origin(kind) is tuple:
        item = typing.get_args(kind)[0]
        items = value.split(",") if isinstance(value, str) else value
        return tuple(_convert(name, item, i.strip() if isinstance(i, str) else i) for i in items)
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise ValueError(f"it must be a JSON object ({error})") from error
    if not isinstance(value, Mapping):
        raise ValueError("it must be a JSON object")
    return dict(value)


def _number(kind: type[int] | type[float], value: Any, what: str) -> int | float:
    try:
        return kind(value)
    except (TypeError, ValueError) as error:
        raise ValueError(what) from error


def parse_size(text: str) -> int:
    """Parse ``"2G"``, ``"512Mi"``, ``"32k"`` or a plain number. Units without an i are powers of 1000."""
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([kmgt]i?)?b?\s*", text.lower())
    if match is None:
        raise ValueError("it must be a number with an optional unit such as 512M, 2G or 2Gi")
    return int(float(match[1]) * _UNITS[match[2] or ""])


def apply_adjustments(config: EngineConfig, plugin: str, changes: Iterable[Adjustment]) -> EngineConfig:
    """Return the configuration with ``changes`` applied and remembered; a change to the value it has is not recorded.

    Raises:
        ConfigError: for a field that does not exist.
    """
    for change in changes:
        part_name, _, name = change.field.partition(".")
        part: Any = getattr(config, part_name, None)
        if part_name not in PARTS or not hasattr(part, name):
            raise ConfigError(f"plugin {plugin!r} adjusts {change.field!r}, which is no setting")
        old = getattr(part, name)
        if old == change.value:
            continue
        applied = AppliedAdjustment(field=change.field, old=old, new=change.value, plugin=plugin, reason=change.reason)
        changed: dict[str, Any] = {part_name: dataclasses.replace(part, **{name: change.value})}
        config = dataclasses.replace(config, **changed, adjustments=(*config.adjustments, applied))
    return config
