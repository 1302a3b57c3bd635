"""From installed metadata to vetted records. Imports no plugin."""

from __future__ import annotations

import dataclasses
import importlib.metadata
from collections import defaultdict
from collections.abc import Iterable, Mapping
from importlib.metadata import EntryPoint
from typing import Final

from hardpoint.contract.errors import ConfigError
from hardpoint.contract.version import CONTRACT
from hardpoint.plugins.record import Record, Selection, State, canonical

PREFIX: Final = "hardpoint."
OURS: Final = "hardpoint"
#: Stands for the distribution of an entry point that a caller made himself; it needs no place on the allow-list.
LOCAL: Final = "(local)"


def installed() -> tuple[EntryPoint, ...]:
    """Return every entry point of our groups on ``sys.path``, in one scan; imports nothing."""
    found = importlib.metadata.entry_points()
    return tuple(
        point for name in sorted(found.groups) if name.startswith(PREFIX) for point in found.select(group=name)
    )


def scan(points: Iterable[EntryPoint]) -> list[Record]:
    """Return a record per entry point, by kind, name and distribution."""
    records = []
    for point in points:
        kind = point.group.removeprefix(PREFIX)
        distribution, version = _identity(point)
        known = kind in CONTRACT
        records.append(
            Record(
                kind=kind,
                name=point.name,
                target=point.value,
                distribution=distribution,
                version=version,
                entry_point=point,
                state=State.AVAILABLE if known else State.INCOMPATIBLE,
                reason="" if known else f"this hardpoint knows no plugins of kind {kind!r}",
            )
        )
    order = {kind: i for i, kind in enumerate(CONTRACT)}
    return sorted(records, key=lambda r: (order.get(r.kind, len(order)), r.kind, r.name, r.distribution))


def _identity(point: EntryPoint) -> tuple[str, str]:
    if point.dist is None:
        return LOCAL, ""
    try:
        metadata = point.dist.metadata
        return str(metadata["Name"] or "(unnamed)"), str(metadata["Version"] or "?")
    except Exception:  # a damaged .dist-info raises whatever its parser meets; such a plugin is simply never allowed
        return "(damaged)", "?"


def vet(records: Iterable[Record], allow: Iterable[str], prefer: Mapping[str, str]) -> list[Record]:
    """Return the records with those that may not be loaded marked: not allowed, or one name from several places.

    Args:
        records: as scanned.
        allow: distributions whose plugins may be loaded beside our own; ``"*"`` is all.
        prefer: ``"kind:name"`` to the distribution to take it from.

    Raises:
        ConfigError: for a key of ``prefer`` that is not ``"kind:name"`` of a known kind.
    """
    for key in prefer:
        kind, colon, name = key.partition(":")
        if kind not in CONTRACT or not colon or not name:
            raise ConfigError(
                f"prefer_plugins has the key {key!r}; it must be 'kind:name' with a kind of {', '.join(CONTRACT)}"
            )
    names = {canonical(name) for name in (OURS, LOCAL, *allow)}
    vetted = [record if "*" in names else _allowed(record, names) for record in records]
    rivals: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for record in vetted:
        if record.usable:
            rivals[record.kind, record.name].append(record)
    return [_unambiguous(record, rivals[record.kind, record.name], prefer) for record in vetted]


def _allowed(record: Record, names: set[str]) -> Record:
    if canonical(record.distribution) in names or not record.usable:
        return record
    reason = f"its distribution is not allowed; --allow-plugins {record.distribution} allows it"
    return dataclasses.replace(record, state=State.BLOCKED, reason=reason)


def _unambiguous(record: Record, rivals: list[Record], prefer: Mapping[str, str]) -> Record:
    if not record.usable:
        return record
    key = f"{record.kind}:{record.name}"
    wanted = prefer.get(key)
    same = [rival for rival in rivals if canonical(rival.distribution) == canonical(wanted or record.distribution)]
    if wanted is not None and canonical(record.distribution) != canonical(wanted):
        reason = f"prefer_plugins takes it from {wanted}" + (
            "" if same else ", which provides no such plugin that is allowed"
        )
    elif len(same) > 1:
        reason = f"{record.origin} declares it {len(same)} times"
    elif wanted is None and len(rivals) > 1:
        others = ", ".join(rival.origin for rival in rivals if rival is not record)
        reason = f'also provided by {others}; choose with --prefer-plugins \'{{"{key}": "{record.distribution}"}}\''
    else:
        return record
    return dataclasses.replace(record, state=State.CONFLICT, reason=reason)


def enforce(records: Iterable[Record], wanted: Mapping[tuple[str, str], Selection]) -> list[Record]:
    """Return the records with all but those in ``wanted`` blocked, and those of another version than there incompatible.

    Args:
        records: as scanned.
        wanted: (kind, name) -> the plugin that another process selected.
    """
    return [_enforced(record, wanted.get((record.kind, record.name))) for record in records]


def _enforced(record: Record, wanted: Selection | None) -> Record:
    if not record.usable or record.identity == wanted:
        return record
    if wanted is None or canonical(wanted.distribution) != canonical(record.distribution):
        reason = "the launching process did not select it"
        return dataclasses.replace(record, state=State.BLOCKED, reason=reason)
    reason = (
        f"the launching process uses version {wanted.version}, here is {record.version}; "
        "install the same version wherever a rank runs"
    )
    return dataclasses.replace(record, state=State.INCOMPATIBLE, reason=reason)
