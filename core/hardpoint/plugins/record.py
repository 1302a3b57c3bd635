"""What the catalogue knows about one installed plugin."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from importlib.metadata import EntryPoint


class State(StrEnum):
    """Where a plugin stands.

    ``AVAILABLE`` may be loaded; ``LOADED`` was. ``BLOCKED`` is not on the allow-list, ``CONFLICT`` shares its name with
    another allowed plugin, ``INCOMPATIBLE`` was built for another contract, ``MISSING`` needs a module that is not
    installed, ``BROKEN`` failed when it was loaded.
    """

    AVAILABLE = "available"
    BLOCKED = "blocked"
    CONFLICT = "conflict"
    INCOMPATIBLE = "incompatible"
    LOADED = "loaded"
    MISSING = "missing"
    BROKEN = "broken"


USABLE = frozenset({State.AVAILABLE, State.LOADED})


@dataclass(frozen=True, slots=True)
class Selection:
    """One plugin by identity. Plain data: a list of these travels to worker processes, which load exactly them."""

    kind: str
    name: str
    distribution: str
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One entry point found on this machine.

    Attributes:
        kind: plugin kind, a key of :data:`hardpoint.contract.version.CONTRACT` unless the state is ``INCOMPATIBLE``.
        name: the entry point's name.
        target: ``"module:attribute"`` of the descriptor.
        distribution: the installed distribution that declares it.
        version: the distribution's version.
        state: where it stands.
        reason: why it stands there; empty for ``AVAILABLE`` and ``LOADED``.
        load_ms: milliseconds that importing the descriptor took, ``None`` before that.
        entry_point: what was found.
    """

    kind: str
    name: str
    target: str
    distribution: str
    version: str
    entry_point: EntryPoint = field(repr=False, compare=False)
    state: State = State.AVAILABLE
    reason: str = ""
    load_ms: float | None = None

    @property
    def usable(self) -> bool:
        """Whether the plugin may be loaded."""
        return self.state in USABLE

    @property
    def origin(self) -> str:
        """Distribution and version, e.g. ``"vendor-x 0.3"``."""
        return f"{self.distribution} {self.version}".strip()

    @property
    def identity(self) -> Selection:
        """The plugin's identity."""
        return Selection(self.kind, self.name, self.distribution, self.version)


def canonical(distribution: str) -> str:
    """Return a distribution's name as PyPA's name normalization spells it: ``"Vendor_X"`` is ``"vendor-x"``."""
    return re.sub(r"[-_.]+", "-", distribution).lower()
