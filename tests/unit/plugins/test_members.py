from __future__ import annotations

from typing import Any, ClassVar, Protocol

import pytest

from hardpoint.contract.platform import Platform
from hardpoint.contract.protocols import PROTOCOLS, protocol
from hardpoint.contract.version import CONTRACT
from hardpoint.plugins import check_members


class Wanted(Protocol):
    name: ClassVar[str]
    size: int

    @property
    def level(self) -> int: ...
    def run(self, x: int, y: int = 0, *, fast: bool = False) -> int: ...


class Good:
    name = "good"

    def __init__(self) -> None:
        self.size = 1
        self.level = 2

    def run(self, x: int, y: int = 0, *, fast: bool = False, more: int = 3) -> int:
        return x


def test_a_class_is_not_asked_for_what_its_instances_get() -> None:
    assert check_members(Wanted, Good) == []
    assert check_members(Wanted, Good()) == []


def test_an_instance_is_asked_for_everything() -> None:
    made = Good()
    del made.size, made.level
    assert check_members(Wanted, made) == ["attribute size is missing", "attribute level is missing"]


def test_every_missing_member_is_told() -> None:
    class Empty: ...

    assert check_members(Wanted, Empty) == [
        "attribute name is missing",
        "method run(x, y=0, *, fast=False) is missing",
    ]


def test_what_is_inherited_from_the_protocol_itself_is_missing() -> None:
    class Lazy(Wanted):
        name = "lazy"

    assert check_members(Wanted, Lazy) == ["method run(x, y=0, *, fast=False) is missing"]


def of(run: Any) -> type:
    return type("Made", (), {"name": "made", "run": run})


@pytest.mark.parametrize(
    "run",
    [
        lambda self, x, y=0, *, fast=False: x,
        lambda self, x, y, fast: x,
        lambda *args, **kwargs: 0,
        staticmethod(lambda x, y, fast: x),
        classmethod(lambda cls, x, y, fast: x),
    ],
)
def test_any_way_of_taking_the_parameters_is_taken(run: Any) -> None:
    assert check_members(Wanted, of(run)) == []


@pytest.mark.parametrize(
    ("run", "told"),
    [
        (lambda self, x: x, "too many positional"),
        (lambda self, x, y, z, fast: x, "missing a required argument: 'z'"),
        (lambda self, a, y, fast: a, "'a'"),
        (lambda self, x, y: x, "unexpected keyword argument 'fast'"),
        (lambda self, x, /, y, fast: x, "'x'"),
    ],
)
def test_a_method_that_cannot_be_called_so_is_told_with_both_signatures(run: Any, told: str) -> None:
    (problem,) = check_members(Wanted, of(run))
    assert "cannot be called as run(x, y=0, *, fast=False)" in problem
    assert told in problem


def test_members_served_by_getattr_count() -> None:
    class Proxy:
        def __getattr__(self, name: str) -> Any:
            if name.startswith("_"):
                raise AttributeError(name)
            return getattr(Good(), name)

    assert check_members(Wanted, Proxy()) == []


def test_compiled_code_without_a_signature_is_taken_as_it_is() -> None:
    assert check_members(Wanted, of(min)) == []


def test_the_protocols_of_the_contract_can_be_found_and_miss_everything_in_object() -> None:
    assert set(PROTOCOLS) <= set(CONTRACT)
    for kind in PROTOCOLS:
        wanted = protocol(kind)
        assert wanted is not None
        assert check_members(wanted, object()), f"{kind} asks for nothing"
    assert protocol("models") is None
    assert "method open(index, config) is missing" in check_members(Platform, object())
