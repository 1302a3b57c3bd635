"""What every entry point resolves to: a description that costs nothing to import."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hardpoint.contract.version import CONTRACT, Version


@dataclass(frozen=True, slots=True, kw_only=True)
class Descriptor:
    """Names a plugin and says where its implementation is, without importing it.

    The module that holds a descriptor must import neither torch nor a driver: it is imported by ``hardpoint plugins``
    and in the parent process. The implementation is imported when, and in the process where, it is used.

    Attributes:
        kind: a key of :data:`hardpoint.contract.version.CONTRACT`.
        name: what a user types on the command line.
        contract: the version of the kind's contract that the plugin was built for.
        implementation: ``"module:attribute"``; the attribute is a class or function called with the kind's arguments.
        summary: one line for ``hardpoint plugins``.
        requires: import names that the implementation needs beyond hardpoint's own dependencies.
        remedy: what to type when one of ``requires`` is missing, e.g. ``pip install hardpoint[cuda]``.
        data: facts that the core reads before it imports anything; which ones is documented with the kind.
    """

    kind: str
    name: str
    contract: Version
    implementation: str
    summary: str = ""
    requires: tuple[str, ...] = ()
    remedy: str = ""
    data: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in CONTRACT:
            raise ValueError(
                f"descriptor {self.name!r}: unknown kind {self.kind!r}; known: {', '.join(sorted(CONTRACT))}"
            )
        module, _, attribute = self.implementation.partition(":")
        if not module or not attribute:
            raise ValueError(
                f"descriptor {self.name!r}: implementation {self.implementation!r} is not 'module:attribute'"
            )
