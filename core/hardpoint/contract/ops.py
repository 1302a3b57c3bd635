"""Op providers: faster bodies for the core's ops.

The core holds a reference for every op (:mod:`hardpoint.ops`). A provider replaces some of them on some hardware; what it
replaces must agree with the reference within the op's tolerance, which the conformance suite checks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


@runtime_checkable
class OpProvider(Protocol):
    """Kernels of one origin. The implementation of a plugin of kind ``ops``, created without arguments."""

    name: ClassVar[str]

    @property
    def ops(self) -> Mapping[str, Callable[..., Any]]:
        """Op's name -> callable with the reference's signature and meaning."""

    def reject(self, op: str, arch: str, dtype: str) -> list[str]:
        """Return every reason why ``ops[op]`` cannot run on ``arch`` with activations of ``dtype``; empty when it can."""
