"""The anti-monkey-patch test: importing and opening a backend changes nothing that is not its own.

Every attribute of every loaded module of Hardpoint, torch, triton and transformers, and every attribute of their classes,
is compared before and after the platform, its ops, its attention backends and its linear kernels are imported and made.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

from hardpoint.contract.platform import Platform

_SCRIPT = """
import json, os, sys
sys.path[:0] = json.loads(sys.argv[3])
import torch, hardpoint.ops, hardpoint.runner.runner, hardpoint.layers.build, hardpoint.scheduler, hardpoint.engine.loop
from hardpoint.config import EngineConfig
from hardpoint.plugins import Catalogue
import torch.distributed, torch.nn.functional, torch.utils.data
try:
    import triton, triton.language
except ImportError:
    pass
OWNERS = ("hardpoint.", "torch.", "triton.", "transformers.")

def owned(name):
    return (name + ".").startswith(OWNERS)

def snapshot():
    found = {}
    for name, module in list(sys.modules.items()):
        if module is None or not owned(name):
            continue
        for key, value in list(vars(module).items()):
            found[name, key] = id(value)
            if isinstance(value, type) and owned(str(value.__module__)):
                found.update({(name, key, attribute): id(member) for attribute, member in list(vars(value).items())})
    return found

def private(key):
    # Caches and counters that libraries keep of themselves.
    return any(part.startswith("_") and not part.startswith("__") for part in key[1:]) or key[-1] in DUNDER

DUNDER = {"__warningregistry__", "__annotations__", "__annotations_cache__", "__conditional_annotations__", "__dict__",
          "__weakref__", "__abstractmethods__", "__parameters__", "__signature__", "__path__"}
environment = dict(os.environ)
before = snapshot()
catalogue = Catalogue(json.loads(sys.argv[1]))
platform = catalogue.create("platforms", sys.argv[2])
for kind, names in (("attention_backends", platform.attention_backends()), ("ops", platform.op_providers()),
                    ("linear_kernels", platform.linear_kernels())):
    for name in names:
        if name != "reference":
            catalogue.create(kind, name)
config = EngineConfig.of(platform=platform.name)
if not hasattr(platform, "runner"):
    os.environ.update(platform.launch(config).env)
    environment.update(platform.launch(config).env)
    platform.open(platform.devices()[0].index, config).close()
after = snapshot()
# A submodule that was imported in between appears as an attribute of its package: not a change of what was there.
changed = sorted(".".join(key) for key, value in before.items() if after.get(key) != value and not private(key))
written = sorted(name for name in os.environ if environment.get(name) != os.environ[name])
print(json.dumps({"changed": changed, "environment": written}))
"""


def test_importing_and_opening_change_nothing_of_others(platform: Platform, allowed: tuple[str, ...]) -> None:
    arguments = [json.dumps(allowed), platform.name, json.dumps([path for path in sys.path if path])]
    run = subprocess.run(
        [sys.executable, "-c", _SCRIPT, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env=dict(os.environ),
        check=False,
    )
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout.splitlines()[-1])
    assert found["changed"] == [], "attributes of others that the backend replaced or removed"
    assert found["environment"] == [], "environment variables that the backend wrote; WorkerLaunch.env is for that"
