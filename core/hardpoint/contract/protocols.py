"""Which protocol the implementation of each plugin kind must satisfy."""

from __future__ import annotations

import importlib
from typing import Final

#: Plugin kind -> ``"module:protocol"``. Kinds that are absent here are checked by whoever uses them.
PROTOCOLS: Final[dict[str, str]] = {
    "platforms": "hardpoint.contract.platform:Platform",
    "attention_backends": "hardpoint.contract.attention:AttentionBackend",
    "quant_methods": "hardpoint.contract.quant:QuantMethod",
    "linear_kernels": "hardpoint.contract.quant:LinearKernel",
    "schedulers": "hardpoint.contract.policy:SchedulingPolicy",
    "executors": "hardpoint.contract.runner:Executor",
    "routes": "hardpoint.contract.routes:RouteSet",
    "servers": "hardpoint.contract.routes:Server",
}


def protocol(kind: str) -> type | None:
    """Return the protocol of a plugin kind, or ``None`` when the kind has none."""
    target = PROTOCOLS.get(kind)
    if target is None:
        return None
    module, _, name = target.partition(":")
    found: type = getattr(importlib.import_module(module), name)
    return found
