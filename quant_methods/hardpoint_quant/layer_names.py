"""Which layers a checkpoint leaves dense, in the two ways in which configurations say so."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hardpoint.contract.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Skipped:
    """Layers named as ``transformers`` does (``should_convert_module``): ``path in skipped``.

    A name stands for a layer, for all that is under it, for what it matches as a regular expression up to a dot, and for
    the end of a path.
    """

    names: tuple[str, ...]
    patterns: tuple[re.Pattern[str], ...]

    @classmethod
    def of(cls, config: Mapping[str, Any], keys: tuple[str, ...]) -> Skipped:
        """Read the first of ``keys`` that a quantization configuration has.

        Raises:
            ConfigError: when it holds no list of names.
        """
        key = next((key for key in keys if config.get(key) is not None), None)
        names = [] if key is None else strings(config[key], f"quantization_config.{key}")
        return cls(tuple(names), tuple(_pattern(name) for name in names))

    def __contains__(self, path: str) -> bool:
        return path.endswith(self.names) or any(pattern.match(path) for pattern in self.patterns)


def selects(target: str, path: str) -> bool:
    """Return whether an entry of compressed-tensors' ``ignore`` names a layer: ``re:`` a pattern, else the whole path."""
    if target.startswith("re:"):
        return re.match(target.removeprefix("re:"), path) is not None
    return target == path


def strings(value: Any, where: str) -> list[str]:
    """Return a list of names from a configuration.

    Raises:
        ConfigError: when ``value`` is no list of strings, or one of them is no regular expression.
    """
    if not isinstance(value, (list, tuple)) or not all(isinstance(name, str) for name in value):
        raise ConfigError(f"config.json: {where} is {value!r}; it must be a list of layer names")
    for name in value:
        try:
            re.compile(name.removeprefix("re:"))
        except re.error as error:
            raise ConfigError(
                f"config.json: {where} holds {name!r}, which is no regular expression ({error}); correct it with --hf-overrides"
            ) from error
    return list(value)


def _pattern(name: str) -> re.Pattern[str]:
    return re.compile(rf"(?:{name})(?:(?<=\.)|(?=\.|$))")
