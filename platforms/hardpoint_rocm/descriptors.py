"""What this package offers. Imports nothing that costs."""

from __future__ import annotations

from hardpoint.contract.descriptor import Descriptor

PLATFORM = Descriptor(
    kind="platforms",
    name="rocm",
    contract=(1, 0),
    implementation="hardpoint_rocm.platform:RocmPlatform",
    summary="AMD GPUs",
)
