"""Announcing events to plugins: registered through pluggy, called one by one so that none can hurt another."""

from __future__ import annotations

import inspect
import logging
from dataclasses import dataclass
from typing import Any

import pluggy

from hardpoint.contract.errors import PluginError
from hardpoint.contract.events import PROJECT, EventSpecs
from hardpoint.plugins.catalogue import Catalogue
from hardpoint.plugins.loading import cause

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Listener:
    plugin: str
    critical: bool
    implementation: pluggy.HookImpl


class Events:
    """Who listens to what. With nobody listening an event costs one dictionary look-up."""

    def __init__(self) -> None:
        self._registry = pluggy.PluginManager(PROJECT)
        self._registry.add_hookspecs(EventSpecs)
        self._parameters = {
            name: frozenset(caller.spec.argnames) for name, caller in vars(self._registry.hook).items() if caller.spec
        }
        self._critical: dict[str, bool] = {}
        self._listeners: dict[str, tuple[_Listener, ...]] = {}

    @classmethod
    def of(cls, catalogue: Catalogue) -> Events:
        """Register every plugin of kind ``events`` that may be loaded; one that fails is logged and left out.

        Raises:
            PluginError: when one that calls itself critical fails.
        """
        events = cls()
        for name in catalogue.names("events"):
            critical = False
            try:
                critical = bool(catalogue.load("events", name).data.get("critical", False))
                events.register(name, catalogue.create("events", name), critical=critical)
            except PluginError as error:
                if critical:
                    raise
                log.warning("events plugin %r is left out: %s", name, error)
        return events

    def register(self, name: str, plugin: object, *, critical: bool = False) -> None:
        """Let ``plugin`` listen.

        Args:
            name: for log lines; one plugin a name.
            plugin: an object with methods marked ``hookimpl``.
            critical: whether its failure in an event ends what was being done.

        Raises:
            PluginError: when it has no hook, one that is no event, or one that cannot be called; then it is not
                registered.
        """
        try:
            _check_signatures(self._registry, plugin)
            self._registry.register(plugin, name=name)
            self._registry.check_pending()
        except (pluggy.PluginValidationError, ValueError, TypeError) as error:
            if self._registry.get_plugin(name) is plugin:
                self._registry.unregister(plugin)
            text = " ".join(str(error).split())
            raise PluginError(f"events plugin {name!r}: {text}; events are {', '.join(self._parameters)}") from error
        self._critical[name] = critical
        self._listeners = {event: self._ordered(event) for event in self._parameters}

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the plugins that are registered."""
        return tuple(self._critical)

    def listened(self, event: str) -> bool:
        """Whether anybody listens to ``event``: ask before gathering what it would say."""
        return bool(self._listeners.get(event))

    def emit(self, event: str, **facts: Any) -> None:
        """Tell everybody who listens to ``event``, in the order of registration (``tryfirst`` and ``trylast`` hold).

        Raises:
            PluginError: when a critical plugin failed; those after it were not told.
            TypeError: when ``facts`` are not the event's parameters.
        """
        if facts.keys() != self._parameters[event]:
            raise TypeError(f"{event} takes {sorted(self._parameters[event])}, not {sorted(facts)}")
        for listener in self._listeners.get(event, ()):
            hook = listener.implementation
            try:
                hook.function(**{name: facts[name] for name in (*hook.argnames, *hook.kwargnames) if name in facts})
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # sys.exit() in a listener is its failure, not the engine's end
                if listener.critical:
                    raise PluginError(
                        f"critical plugin {listener.plugin!r} failed in {event}: {cause(error)}"
                    ) from error
                log.exception("plugin %r failed in %s", listener.plugin, event)

    def _ordered(self, event: str) -> tuple[_Listener, ...]:
        order = list(self._critical)
        found = getattr(self._registry.hook, event).get_hookimpls()
        found.sort(key=lambda impl: (not impl.tryfirst, impl.trylast, order.index(impl.plugin_name)))
        return tuple(_Listener(impl.plugin_name, self._critical[impl.plugin_name], impl) for impl in found)


def _check_signatures(registry: pluggy.PluginManager, plugin: object) -> None:
    """Refuse what pluggy takes and then calls wrongly or not at all."""
    hooks = 0
    for name in dir(plugin):
        options = registry.parse_hookimpl_opts(plugin, name)
        if options is None:
            continue
        hooks += 1
        if options.get("wrapper") or options.get("hookwrapper"):
            raise TypeError(f"{name} is a wrapper; an event has nothing to wrap")
        parameters = inspect.signature(getattr(plugin, name)).parameters.values()
        if any(p.kind is not p.POSITIONAL_OR_KEYWORD for p in parameters):
            raise TypeError(f"{name} has keyword-only, positional-only or variable parameters; use plain ones")
    if not hooks:
        raise TypeError(f"{type(plugin).__name__} has no method marked hookimpl")
