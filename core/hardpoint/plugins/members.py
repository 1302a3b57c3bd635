"""Whether a class or an object has what a protocol asks for, told as reasons."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any, Protocol

_MISSING = object()


def check_members(protocol: type, candidate: Any) -> list[str]:
    """Return everything that ``candidate`` lacks of ``protocol``; empty when it has all.

    Args:
        protocol: a :class:`typing.Protocol`.
        candidate: a class, whose instance attributes are not known yet and not asked for, or an instance.

    A member inherited from a protocol class is missing: its body is a docstring. A method is present if it can be called
    with the protocol's parameters, by position and by name.
    """
    return [problem for name, member in _members(protocol) if (problem := _problem(name, member, candidate))]


def _members(protocol: type) -> Iterator[tuple[str, Any]]:
    """Yield public members: ``(name, function or property)``, or ``(name, annotation)`` for data."""
    for base in _protocols(protocol):
        for name, annotation in inspect.get_annotations(base).items():
            if not name.startswith("_"):
                yield name, annotation
        for name, member in vars(base).items():
            if not name.startswith("_") and (inspect.isfunction(member) or isinstance(member, property)):
                yield name, member


def _protocols(kind: type) -> list[type]:
    return [base for base in kind.__mro__ if getattr(base, "_is_protocol", False) and base is not Protocol]


def _problem(name: str, member: Any, candidate: Any) -> str | None:
    owner = candidate if isinstance(candidate, type) else type(candidate)
    found = inspect.getattr_static(candidate, name, _MISSING)
    inherited = any(vars(base).get(name, _MISSING) is found for base in _protocols(owner))
    if found is _MISSING and hasattr(candidate, name):  # served by __getattr__
        found = getattr(candidate, name)
    absent = found is _MISSING or inherited
    if inspect.isfunction(member):
        if absent:
            return f"method {name}{_without_self(member)} is missing"
        return _uncallable(name, member, candidate, found)
    of_class = isinstance(member, str) and member.startswith(("ClassVar", "typing.ClassVar"))
    if absent and (of_class or not isinstance(candidate, type)):
        return f"attribute {name} is missing"
    return None


def _uncallable(name: str, expected: Any, candidate: Any, found: Any) -> str | None:
    actual = getattr(candidate, name)
    if not callable(actual):
        return f"{name} is {type(actual).__name__}, not a method"
    try:
        signature = inspect.signature(actual)
    except (TypeError, ValueError):  # compiled code without a signature
        return None
    wanted = _without_self(expected)
    bare = [object()] if isinstance(candidate, type) and inspect.isfunction(found) else []
    by_keyword = [p.name for p in wanted.parameters.values() if p.kind is p.KEYWORD_ONLY]
    by_position = [p.name for p in wanted.parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    try:
        signature.bind(*bare, *by_position, **dict.fromkeys(by_keyword))
        signature.bind(*bare, **dict.fromkeys([*by_position, *by_keyword]))
    except TypeError as error:
        return f"method {name}{signature} cannot be called as {name}{wanted}: {error}"
    return None


def _without_self(function: Any) -> inspect.Signature:
    signature = inspect.signature(function)
    parameters = list(signature.parameters.values())[1:]
    plain = [p.replace(annotation=p.empty) for p in parameters]
    return signature.replace(parameters=plain, return_annotation=signature.empty)
