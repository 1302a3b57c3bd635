from __future__ import annotations

import logging
import sys
from typing import Any

import pytest

from hardpoint.contract.errors import PluginError
from hardpoint.contract.events import EventSpecs, hookimpl
from hardpoint.plugins import Catalogue, Events
from throwaway import Site, descriptor


class Listener:
    def __init__(self, heard: list[Any], name: str = "listener") -> None:
        self.heard, self.name = heard, name

    @hookimpl
    def request_finished(self, request_id: str, num_generated: int) -> None:
        self.heard.append((self.name, request_id, num_generated))


FINISHED = {"request_id": "a", "reason": "stop", "num_prompt": 3, "num_generated": 5}


def test_a_listener_gets_the_parameters_that_it_names() -> None:
    heard: list[Any] = []
    events = Events()
    assert not events.listened("request_finished")
    events.emit("request_finished", **FINISHED)
    events.register("one", Listener(heard))
    assert events.listened("request_finished")
    assert not events.listened("metrics")
    events.emit("request_finished", **FINISHED)
    assert heard == [("listener", "a", 5)]


def test_listeners_hear_in_the_order_of_registration_unless_they_ask_otherwise() -> None:
    heard: list[Any] = []

    class Last(Listener):
        @hookimpl(trylast=True)
        def request_finished(self, request_id: str, num_generated: int) -> None:
            self.heard.append((self.name,))

    class First(Listener):
        @hookimpl(tryfirst=True)
        def request_finished(self, request_id: str, num_generated: int) -> None:
            self.heard.append((self.name,))

    events = Events()
    for listener in (Last(heard, "last"), Listener(heard, "b"), Listener(heard, "a"), First(heard, "first")):
        events.register(listener.name, listener)
    events.emit("request_finished", **FINISHED)
    assert [entry[0] for entry in heard] == ["first", "b", "a", "last"]


@pytest.mark.parametrize("failure", [ValueError("no room"), AssertionError("never"), SystemExit(4)])
def test_one_that_fails_is_named_and_hurts_nobody(caplog: pytest.LogCaptureFixture, failure: BaseException) -> None:
    class Failing:
        @hookimpl
        def request_finished(self) -> None:
            raise failure

    heard: list[Any] = []
    events = Events()
    events.register("before", Listener(heard, "before"))
    events.register("failing", Failing())
    events.register("after", Listener(heard, "after"))
    events.emit("request_finished", **FINISHED)
    assert [entry[0] for entry in heard] == ["before", "after"]
    assert "plugin 'failing' failed in request_finished" in caplog.text


def test_a_critical_one_that_fails_ends_what_was_being_done() -> None:
    class Failing:
        @hookimpl
        def engine_stopping(self) -> None:
            raise ValueError("disk full")

    events = Events()
    events.register("auditor", Failing(), critical=True)
    with pytest.raises(PluginError, match="critical plugin 'auditor' failed in engine_stopping: ValueError: disk full"):
        events.emit("engine_stopping")


def test_an_interrupt_in_a_listener_is_an_interrupt() -> None:
    class Interrupted:
        @hookimpl
        def engine_stopping(self) -> None:
            raise KeyboardInterrupt

    events = Events()
    events.register("x", Interrupted())
    with pytest.raises(KeyboardInterrupt):
        events.emit("engine_stopping")


class Misspelt:
    @hookimpl
    def request_finish(self, request_id: str) -> None: ...


class UnknownParameter:
    @hookimpl
    def metrics(self, stat: Any) -> None: ...


class KeywordOnly:
    @hookimpl
    def metrics(self, *, stats: Any) -> None: ...


class Variable:
    @hookimpl
    def metrics(self, **facts: Any) -> None: ...


class Wrapper:
    @hookimpl(wrapper=True)
    def metrics(self, stats: Any) -> Any:
        yield


class Unmarked:
    def metrics(self, stats: Any) -> None: ...


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (Misspelt, "request_finish"),
        (UnknownParameter, "stat"),
        (KeywordOnly, "keyword-only"),
        (Variable, "variable parameters"),
        (Wrapper, "nothing to wrap"),
        (Unmarked, "no method marked hookimpl"),
    ],
)
def test_what_could_never_be_called_rightly_is_refused_and_leaves_nothing_behind(wrong: type, told: str) -> None:
    events = Events()
    with pytest.raises(PluginError, match=rf"events plugin 'wrong': .*{told}.*events are "):
        events.register("wrong", wrong())
    assert not any(events.listened(event) for event in ("metrics", "request_finished"))
    heard: list[Any] = []
    events.register("wrong", Listener(heard))
    events.emit("request_finished", **FINISHED)
    assert len(heard) == 1


def test_a_parameter_with_a_default_is_filled_and_one_from_the_future_keeps_it() -> None:
    heard: list[Any] = []

    class Careful:
        @hookimpl
        def metrics(self, stats: Any = None, moon_phase: str = "new") -> None:
            heard.append((stats, moon_phase))

    events = Events()
    events.register("careful", Careful())
    events.emit("metrics", stats=7)
    assert heard == [(7, "new")]


def test_one_name_is_registered_once() -> None:
    events = Events()
    events.register("one", Listener([]))
    with pytest.raises(PluginError, match="one"):
        events.register("one", Listener([]))
    heard: list[Any] = []
    events.register("two", Listener(heard))
    events.emit("request_finished", **FINISHED)
    assert len(heard) == 1


def test_an_event_is_announced_with_exactly_its_parameters() -> None:
    with pytest.raises(TypeError, match=r"metrics takes \['stats'\], not \['stat'\]"):
        Events().emit("metrics", stat=1)
    with pytest.raises(KeyError):
        Events().emit("no_such_event")


PLUGIN = """
from hardpoint.contract.events import hookimpl
class Made:
    heard = []
    @hookimpl
    def engine_stopping(self):
        self.heard.append("stopping")
"""


def install(site: Site, distribution: str, name: str, code: str = PLUGIN, **more: object) -> None:
    module = f"events_{distribution.replace('-', '_')}"
    described = descriptor("events", name, f"{module}_code:Made", **more)
    site.add(distribution, {module: described, f"{module}_code": code}, {"events": {name: f"{module}:D"}})


def test_allowed_plugins_listen_broken_ones_are_left_out_and_others_never_imported(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    install(site, "vendor-good", "good")
    install(site, "vendor-broken", "broken", "raise ImportError('libaudit.so')")
    install(site, "vendor-stranger", "stranger")
    with caplog.at_level(logging.WARNING):
        events = Events.of(Catalogue(["vendor-good", "vendor-broken"], entry_points=site.points()))
    assert "'broken' is left out" in caplog.text
    assert "libaudit.so" in caplog.text
    events.emit("engine_stopping")
    assert sys.modules["events_vendor_good_code"].Made.heard == ["stopping"]
    assert "events_vendor_stranger" not in sys.modules


def test_a_critical_plugin_that_cannot_be_loaded_is_an_error(site: Site) -> None:
    install(site, "vendor-strict", "strict", "raise ImportError('libaudit.so')", data={"critical": True})
    with pytest.raises(PluginError, match="libaudit"):
        Events.of(Catalogue(["*"], entry_points=site.points()))


def test_events_are_few_and_documented() -> None:
    specs = [member for name, member in vars(EventSpecs).items() if not name.startswith("_")]
    assert len(specs) == 10
    assert all(spec.__doc__ for spec in specs)
