"""The linear kernel that is always there. Imports no torch."""

from __future__ import annotations

from typing import Final

from hardpoint.contract.descriptor import Descriptor

TORCH: Final = Descriptor(
    kind="linear_kernels",
    name="torch",
    contract=(1, 0),
    implementation="hardpoint.layers.linear:TorchLinear",
    summary="dense products by torch",
)
