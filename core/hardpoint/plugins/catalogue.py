"""The catalogue: every plugin on this machine, and the one way to load one."""

from __future__ import annotations

import dataclasses
import difflib
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING, Any, NoReturn

from hardpoint.contract.descriptor import Descriptor
from hardpoint.contract.errors import HardpointError, PluginError
from hardpoint.contract.protocols import protocol
from hardpoint.contract.version import CONTRACT
from hardpoint.plugins.loading import (
    IncompatibleError,
    cause,
    import_implementation,
    load_descriptor,
    missing_requirements,
)
from hardpoint.plugins.members import check_members
from hardpoint.plugins.record import Record, Selection, State
from hardpoint.plugins.scan import enforce, installed, scan, vet

if TYPE_CHECKING:
    from hardpoint.config import PluginConfig

log = logging.getLogger(__name__)


class Catalogue:
    """What is installed, what of it may be loaded, and why the rest may not. Making one imports no plugin.

    Args:
        allow: distributions whose plugins may be loaded beside our own; ``"*"`` is all.
        prefer: ``"kind:name"`` to the distribution to take it from when several provide it.
        entry_points: what to look at in place of what is installed. Those without a distribution are always allowed.

    Raises:
        ConfigError: for a key of ``prefer`` that cannot be one.
    """

    def __init__(
        self,
        allow: Iterable[str] = (),
        prefer: Mapping[str, str] | None = None,
        *,
        entry_points: Iterable[EntryPoint] | None = None,
    ) -> None:
        self._found = tuple(scan(installed() if entry_points is None else entry_points))
        self._records = dict(enumerate(vet(self._found, allow, prefer or {})))
        self._enforced: dict[tuple[str, str], Selection] = {}
        self._descriptors: dict[Selection, Descriptor] = {}
        self._implementations: dict[Selection, Any] = {}

    @classmethod
    def of(cls, config: PluginConfig) -> Catalogue:
        """Make the catalogue that a configuration allows."""
        return cls(config.allow_plugins, config.prefer_plugins)

    @property
    def records(self) -> tuple[Record, ...]:
        """Every plugin found, usable or not, by kind, name and distribution."""
        return tuple(self._records.values())

    def names(self, kind: str) -> tuple[str, ...]:
        """Return the names of the plugins of ``kind`` that may be loaded."""
        return tuple(record.name for record in self.records if record.kind == kind and record.usable)

    def selection(self) -> tuple[Selection, ...]:
        """Return what may be loaded, as data for :meth:`enforce` in a worker process."""
        return tuple(record.identity for record in self.records if record.usable)

    def enforce(self, selection: Iterable[Selection]) -> None:
        """From now on load exactly what another process selected, in exactly its versions.

        The allow-list and the preferences are not asked again: they were when the selection was made. A plugin that is
        absent here or has another version is an error when it is asked for.
        """
        self._enforced = {(chosen.kind, chosen.name): chosen for chosen in selection}
        self._records = dict(enumerate(enforce(self._found, self._enforced)))

    def select(self, kind: str, name: str) -> Record:
        """Return the one plugin of this kind and name that may be loaded.

        Raises:
            PluginError: when there is none, with what exists and why it is not that.
        """
        return self._find(kind, name)[1]

    def load(self, kind: str, name: str) -> Descriptor:
        """Return a plugin's descriptor, importing the module that holds it (and not its implementation).

        Raises:
            PluginError: when it cannot be selected, its import fails in any way, or it was built for another contract.
        """
        index, record = self._find(kind, name)
        if record.identity in self._descriptors:
            return self._descriptors[record.identity]
        start = time.perf_counter()
        try:
            descriptor = load_descriptor(record)
        except KeyboardInterrupt:
            raise
        except IncompatibleError as error:
            self._fail(index, State.INCOMPATIBLE, str(error), error)
        except BaseException as error:  # an assertion or sys.exit() in a plugin's import is its failure, not our end
            self._fail(index, State.BROKEN, cause(error), error)
        elapsed = (time.perf_counter() - start) * 1e3
        self._records[index] = dataclasses.replace(record, state=State.LOADED, load_ms=elapsed)
        self._descriptors[record.identity] = descriptor
        return descriptor

    def implementation(self, kind: str, name: str) -> Any:
        """Import and return what a plugin's descriptor names, without calling it.

        Raises:
            PluginError: as :meth:`load`, and when a requirement is not installed, the import fails in any way, or a
                class lacks a required member.
        """
        descriptor = self.load(kind, name)
        index, record = self._find(kind, name)
        if record.identity in self._implementations:
            return self._implementations[record.identity]
        if missing := missing_requirements(descriptor):
            remedy = descriptor.remedy or f"pip install {' '.join(missing)}"
            self._fail(index, State.MISSING, f"it needs {', '.join(missing)}, not installed here; {remedy}")
        try:
            found = import_implementation(descriptor)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            self._fail(index, State.BROKEN, cause(error), error)
        if not callable(found):
            self._fail(index, State.BROKEN, f"{descriptor.implementation} is {type(found).__name__}, not callable")
        if isinstance(found, type):
            self._check(index, found)
        self._implementations[record.identity] = found
        return found

    def create(self, kind: str, name: str, *args: Any, **kwargs: Any) -> Any:
        """Call a plugin's implementation and return what it makes, with its members checked against the kind's protocol.

        Raises:
            PluginError: as :meth:`implementation`, and when the call fails or its result lacks a required member.
            HardpointError: what the implementation itself raises of these, e.g. ``ConfigError`` for a setting it refuses.
        """
        make: Callable[..., Any] = self.implementation(kind, name)
        index, record = self._find(kind, name)
        try:
            made = make(*args, **kwargs)
        except (KeyboardInterrupt, HardpointError):
            raise
        except BaseException as error:  # not marked as broken: the same plugin may serve other arguments
            raise PluginError(self._text(record, f"it failed when it was created: {cause(error)}")) from error
        self._check(index, made)
        return made

    def mark_broken(self, record: Record, error: BaseException) -> NoReturn:
        """Note that a plugin failed in use; it is not selected again.

        Raises:
            PluginError: always, from ``error``.
        """
        index = next(i for i, other in self._records.items() if other.identity == record.identity)
        self._fail(index, State.BROKEN, cause(error), error)

    def _check(self, index: int, candidate: Any) -> None:
        kind = self._records[index].kind
        wanted = protocol(kind)
        if wanted is not None and (problems := check_members(wanted, candidate)):
            shape = candidate.__name__ if isinstance(candidate, type) else type(candidate).__name__
            self._fail(index, State.BROKEN, f"{shape} is no {wanted.__name__}: {'; '.join(problems)}")

    def _find(self, kind: str, name: str) -> tuple[int, Record]:
        if kind not in CONTRACT:
            raise PluginError(f"there are no plugins of kind {kind!r}; kinds are {', '.join(CONTRACT)}")
        found = [(i, r) for i, r in self._records.items() if (r.kind, r.name) == (kind, name)]
        usable = [entry for entry in found if entry[1].usable]
        if len(usable) == 1:
            return usable[0]
        names = self.names(kind)
        choice = f"Available: {', '.join(names)}." if names else f"No plugin of kind {kind} may be loaded."
        if found:
            why = "; ".join(f"{r.origin} is {r.state}: {r.reason}" for _, r in found)
            raise PluginError(f"{kind} plugin {name!r} cannot be used. {why}. {choice}")
        if elsewhere := self._enforced.get((kind, name)):
            raise PluginError(
                f"{kind} plugin {name!r}: the launching process takes it from {elsewhere.distribution} "
                f"{elsewhere.version}, which is not installed here. {choice}"
            )
        near = difflib.get_close_matches(name, names, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise PluginError(f"no installed package has a {kind} plugin {name!r}.{hint} {choice}")

    def _fail(self, index: int, state: State, reason: str, error: BaseException | None = None) -> NoReturn:
        record = self._records[index] = dataclasses.replace(self._records[index], state=state, reason=reason)
        raise PluginError(self._text(record, reason)) from error

    def _text(self, record: Record, reason: str) -> str:
        others = [name for name in self.names(record.kind) if name != record.name]
        choice = f"Others of this kind: {', '.join(others)}." if others else "There is no other of this kind."
        return f"{record.kind} plugin {record.name!r} of {record.origin} ({record.target}): {reason}. {choice}"
