from __future__ import annotations

import itertools
import logging

import pytest

from hardpoint.contract.errors import PluginError
from hardpoint.plugins import Catalogue, State, choose
from throwaway import Site, descriptor

_numbers = itertools.count()
MEMBERS = """
class Made:
    name = {name!r}
    contract = (1, 0)
    def probe(self):
        {probe}
    def devices(self): return ()
    def capabilities(self, info): ...
    def constrain(self, model, config): return ()
    def limits(self, model, config): ...
    def attention_backends(self): return ()
    def op_providers(self): return ()
    def linear_kernels(self): return ()
    def launch(self, config): ...
    def open(self, index, config): ...
"""


def add(site: Site, name: str, probe: str = "return None", head: str = "", **more: object) -> None:
    """Install a platform ``name`` from the distribution ``vendor-<name>``."""
    module = f"platform_{next(_numbers)}"
    contract = str(more.pop("contract", "(1, 0)"))
    described = descriptor("platforms", name, f"{module}_code:Made", contract, **more)
    code = MEMBERS.format(name=name, probe=probe)
    site.add(f"vendor-{name}", {module: head + described, f"{module}_code": code}, {"platforms": {name: f"{module}:D"}})


def slow(site: Site, **more: object) -> None:
    add(site, "aaa_slow", data={"fallback": True}, **more)


def test_the_first_with_a_device_is_chosen_and_the_fallback_comes_last(site: Site) -> None:
    slow(site)
    add(site, "npu", "return 'no device file'")
    add(site, "tpu")
    add(site, "xpu", "raise SystemError('probed')")
    found = Catalogue(["*"], entry_points=site.points())
    chosen = choose(found, "platforms")
    assert chosen.name == "tpu"
    assert chosen.instance.probe() is None
    assert {r.name: r.reason for r in chosen.refused} == {
        "aaa_slow": "'tpu' comes first",
        "npu": "no device file",
        "xpu": "'tpu' comes first",
    }


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"head": "raise ImportError('libnpu.so missing')\n"}, "ImportError: libnpu.so missing"),
        ({"probe": "raise OSError('driver')"}, "OSError: driver"),
        ({"probe": "import sys; sys.exit(3)"}, r"sys.exit(3)"),
        ({"contract": "(9, 0)"}, "version 9.0 of the platforms contract"),
        ({"requires": ("no_such_module",)}, "pip install no_such_module"),
    ],
)
def test_a_fallback_is_never_chosen_in_silence_while_another_is_broken(
    site: Site, caplog: pytest.LogCaptureFixture, more: dict[str, object], told: str
) -> None:
    slow(site)
    add(site, "npu", **more)
    with caplog.at_level(logging.WARNING):
        chosen = choose(Catalogue(["*"], entry_points=site.points()), "platforms")
    assert chosen.name == "aaa_slow"
    (line,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert "fallback 'aaa_slow' because 'npu' of vendor-npu 1.0" in line
    assert told in line
    assert told in chosen.refused[0].reason


def test_a_blocked_platform_is_named_when_the_fallback_runs_in_its_place(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    slow(site)
    add(site, "npu")
    with caplog.at_level(logging.WARNING):
        chosen = choose(Catalogue(["vendor-aaa_slow"], entry_points=site.points()), "platforms")
    assert chosen.refused[0].state is State.BLOCKED
    assert "--allow-plugins vendor-npu" in caplog.text


def test_a_machine_without_the_device_runs_on_the_fallback_without_a_warning(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    slow(site)
    add(site, "npu", "return 'no device file'")
    with caplog.at_level(logging.WARNING):
        chosen = choose(Catalogue(["*"], entry_points=site.points()), "platforms")
    assert (chosen.name, caplog.text) == ("aaa_slow", "")
    assert chosen.refused[0].reason == "no device file"


def test_when_none_can_be_used_every_reason_is_told(site: Site) -> None:
    add(site, "npu", "return 'no device file'")
    add(site, "tpu", head="assert False, 'too old'\n")
    with pytest.raises(PluginError, match=r"npu \(vendor-npu 1\.0\): no device file; tpu .*AssertionError: too old"):
        choose(Catalogue(["*"], entry_points=site.points()), "platforms")
    with pytest.raises(PluginError, match="None is installed"):
        choose(Catalogue(entry_points=[]), "platforms")


def test_a_named_platform_is_taken_without_asking_the_others(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    slow(site)
    add(site, "npu", head="raise SystemError('imported')\n")
    with caplog.at_level(logging.WARNING):
        chosen = choose(Catalogue(["*"], entry_points=site.points()), "platforms", "aaa_slow")
    assert (chosen.name, caplog.text) == ("aaa_slow", "")
    assert chosen.refused[0].reason == "'aaa_slow' was asked for"


def test_a_named_platform_without_its_device_is_an_error(site: Site) -> None:
    slow(site)
    add(site, "npu", "return 'no device file'")
    found = Catalogue(["*"], entry_points=site.points())
    with pytest.raises(
        PluginError, match=r"'npu' of vendor-npu 1\.0: no device file\. Others of this kind: aaa_slow\."
    ):
        choose(found, "platforms", "npu")
    with pytest.raises(PluginError, match="Did you mean 'npu'"):
        choose(found, "platforms", "npv")
