"""Loading one vetted plugin: its descriptor through stevedore, then its implementation by name."""

from __future__ import annotations

import importlib
import importlib.util
from importlib.metadata import EntryPoint
from typing import Any

from stevedore.driver import DriverManager

from hardpoint.contract.descriptor import Descriptor
from hardpoint.contract.version import CONTRACT
from hardpoint.plugins.record import Record


class IncompatibleError(Exception):
    """A descriptor states a contract version that this core does not speak."""


class _OneDriver(DriverManager):  # type: ignore[misc]
    """A driver manager that sees the one vetted entry point.

    stevedore's own list comes from a disk cache that drops the distribution; nothing here reads it.
    """

    def __init__(self, record: Record) -> None:
        self._vetted = record.entry_point
        super().__init__(
            record.entry_point.group,
            record.name,
            on_load_failure_callback=self._fail,
            on_missing_entrypoints_callback=None,
        )

    def list_entry_points(self) -> list[EntryPoint]:
        return [self._vetted]

    @staticmethod
    def _fail(owner: object, point: EntryPoint, error: BaseException) -> None:
        raise error


def load_descriptor(record: Record) -> Descriptor:
    """Import a plugin's descriptor and check what it says of itself.

    Raises:
        IncompatibleError: when it was built for a contract that this core does not speak.
        TypeError, ValueError: when it is no descriptor, or one of another kind or name.
        BaseException: whatever the import raises, ``SystemExit`` included.
    """
    found = _OneDriver(record).driver
    if not isinstance(found, Descriptor):
        raise TypeError(f"{record.target} is {type(found).__name__}, not a hardpoint.contract.descriptor.Descriptor")
    if (found.kind, found.name) != (record.kind, record.name):
        raise ValueError(
            f"{record.target} describes {found.kind}:{found.name}, its entry point says {record.kind}:{record.name}"
        )
    (major, minor), (speaks, newest) = found.contract, CONTRACT[record.kind]
    if major != speaks or minor > newest:
        raise IncompatibleError(
            f"built for version {major}.{minor} of the {record.kind} contract, this hardpoint speaks {speaks}.{newest}; "
            f"install {'a newer' if (major, minor) > (speaks, newest) else 'an older'} hardpoint or another version of "
            f"{record.distribution}"
        )
    return found


def missing_requirements(descriptor: Descriptor) -> list[str]:
    """Return those of ``descriptor.requires`` that are not installed. Imports at most parent packages of dotted names."""
    return [name for name in descriptor.requires if not _installed(name)]


def _installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ModuleNotFoundError, ValueError):  # no parent package, or a module without a spec
        return False


def import_implementation(descriptor: Descriptor) -> Any:
    """Import what a descriptor names.

    Raises:
        AttributeError: when the module has no such attribute.
        BaseException: whatever the import raises.
    """
    module, _, attribute = descriptor.implementation.partition(":")
    found: Any = importlib.import_module(module)
    for part in attribute.split("."):
        found = getattr(found, part)
    return found


def cause(error: BaseException) -> str:
    """Return an exception as one line: its type and the first line of its text."""
    if isinstance(error, SystemExit):
        return f"it called sys.exit({error.code!r})"
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
