"""Ops: what kernels mean, written in plain torch, and which kernel runs them.

Modules: ``norm``, ``rotary``, ``activation``, ``embed``, ``moe``, ``decode``, ``ranking`` and ``sampling`` hold the references;
``registry`` says what an op is; ``table`` binds ops to providers for a device.
"""

from hardpoint.ops.registry import OPS, Op, OpCall, Tolerance
from hardpoint.ops.table import REFERENCE, OpTable

__all__ = ["OPS", "REFERENCE", "Op", "OpCall", "OpTable", "Tolerance"]
