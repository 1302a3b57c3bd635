"""Choosing a plugin that can say whether this machine has what it needs: platforms, above all."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Final

from hardpoint.contract.errors import PluginError
from hardpoint.plugins.catalogue import Catalogue
from hardpoint.plugins.record import Record, State

log = logging.getLogger(__name__)

AUTO: Final = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A plugin that was not chosen, and why. ``state`` is ``LOADED`` when it works but has no device here."""

    name: str
    distribution: str
    version: str
    state: State
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What was chosen.

    Attributes:
        record: the plugin.
        instance: what its implementation made; ``instance.probe()`` gave ``None``.
        refused: the others of its kind, each with its reason.
    """

    record: Record
    instance: Any
    refused: tuple[Refusal, ...] = ()

    @property
    def name(self) -> str:
        """The plugin's name."""
        return self.record.name


def choose(catalogue: Catalogue, kind: str, name: str = AUTO) -> Choice:
    """Choose the plugin ``name``, or with ``"auto"`` the first one whose ``probe()`` finds a device.

    Plugins whose descriptor has ``data["fallback"]`` true come last, the others in order of their names. When a fallback
    is chosen while another plugin could not even be asked (broken, blocked, ...), a warning names it: a machine never
    runs on its slow side in silence.

    Args:
        catalogue: where to look.
        kind: a kind whose implementations have ``probe() -> str | None`` and are made without arguments.
        name: a plugin's name, or ``"auto"``.

    Raises:
        PluginError: when the named plugin fails or finds no device, or when none does; with every candidate's reason.
    """
    if name != AUTO:
        record, instance, reason = probe(catalogue, kind, name)
        if reason is not None:
            others = ", ".join(other for other in catalogue.names(kind) if other != name) or "none"
            raise PluginError(f"{kind} plugin {name!r} of {record.origin}: {reason}. Others of this kind: {others}.")
        refused = [_refusal(other, f"{name!r} was asked for") for other in _others(catalogue, record)]
        return Choice(record=record, instance=instance, refused=tuple(refused))
    return _auto(catalogue, kind)


def _auto(catalogue: Catalogue, kind: str) -> Choice:
    candidates: list[tuple[bool, str]] = []
    for name in catalogue.names(kind):
        try:
            candidates.append((bool(catalogue.load(kind, name).data.get("fallback", False)), name))
        except PluginError as error:  # recorded in the catalogue, told below
            log.debug("%s", error)
    absent: dict[str, str] = {}
    for fallback, name in sorted(candidates):
        try:
            record, instance, reason = probe(catalogue, kind, name)
        except PluginError as error:
            log.debug("%s", error)
            continue
        if reason is None:
            refused = tuple(
                _refusal(other, absent.get(other.name, f"{name!r} comes first")) for other in _others(catalogue, record)
            )
            _tell(kind, record, refused, fallback)
            return Choice(record=record, instance=instance, refused=refused)
        absent[name] = reason
    lines = [
        f"{r.name} ({r.origin}): {r.reason or absent.get(r.name, '')}" for r in catalogue.records if r.kind == kind
    ]
    raise PluginError(f"no {kind} plugin can be used here. " + ("; ".join(lines) or "None is installed") + ".")


def probe(catalogue: Catalogue, kind: str, name: str) -> tuple[Record, Any, str | None]:
    """Make the plugin and ask it: return its record, what was made, and why it has no device here, if so.

    Raises:
        PluginError: when it fails; it is recorded as broken.
    """
    instance = catalogue.create(kind, name)
    record = catalogue.select(kind, name)
    try:
        reason = instance.probe()
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        catalogue.mark_broken(record, error)
    return record, instance, reason


def _others(catalogue: Catalogue, chosen: Record) -> list[Record]:
    return [r for r in catalogue.records if r.kind == chosen.kind and r.identity != chosen.identity]


def _refusal(record: Record, reason: str) -> Refusal:
    return Refusal(
        name=record.name,
        distribution=record.distribution,
        version=record.version,
        state=record.state,
        reason=record.reason or reason,
    )


def _tell(kind: str, chosen: Record, refused: tuple[Refusal, ...], fallback: bool) -> None:
    for other in refused:
        if fallback and other.state not in (State.AVAILABLE, State.LOADED):
            log.warning(
                "%s: running on the fallback %r because %r of %s %s is %s: %s",
                kind, chosen.name, other.name, other.distribution, other.version, other.state, other.reason,
            )  # fmt: skip
        else:
            log.debug("%s: %r is not used: %s", kind, other.name, other.reason)
