"""The process in which plugins are tried out: a JSON list of them on stdin, a JSON line about each on stdout."""

from __future__ import annotations

import os
import sys
import time

import msgspec

from hardpoint.contract.errors import PluginError
from hardpoint.contract.platform import Platform
from hardpoint.plugins.catalogue import Catalogue
from hardpoint.plugins.check import Checked, DeviceLine
from hardpoint.plugins.choice import probe
from hardpoint.plugins.record import Selection, State


def main() -> None:
    """Try the plugins in order; answer after each."""
    plugins = msgspec.json.decode(sys.stdin.buffer.read(), type=tuple[Selection, ...])
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a plugin prints is no answer
    catalogue = Catalogue()
    catalogue.enforce(plugins)
    for plugin in plugins:
        answers.write(msgspec.json.encode(_check(catalogue, plugin)) + b"\n")
        answers.flush()


def _check(catalogue: Catalogue, plugin: Selection) -> Checked:
    began = time.perf_counter()
    error = absent = missing = None
    devices: tuple[DeviceLine, ...] = ()
    summary = ""
    try:
        summary = catalogue.load(plugin.kind, plugin.name).summary
        catalogue.implementation(plugin.kind, plugin.name)
        if plugin.kind == "platforms":
            _, platform, absent = probe(catalogue, plugin.kind, plugin.name)
            devices = _devices(platform) if absent is None else ()
    except PluginError as failure:
        record = next(r for r in catalogue.records if r.identity == plugin)
        if record.state is State.MISSING:
            missing = record.reason
        else:
            error = record.reason or str(failure)
    except Exception as failure:
        error = f"{type(failure).__name__}: {failure}"
    return Checked(
        plugin=plugin,
        seconds=time.perf_counter() - began,
        error=error,
        absent=absent,
        missing=missing,
        devices=devices,
        summary=summary,
    )


def _devices(platform: Platform) -> tuple[DeviceLine, ...]:
    return tuple(DeviceLine(d.index, d.name, d.arch, d.total_bytes) for d in platform.devices())


if __name__ == "__main__":
    main()
