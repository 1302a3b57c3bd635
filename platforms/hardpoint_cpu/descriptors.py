"""What this package offers. Imports nothing that costs."""

from __future__ import annotations

from hardpoint.contract.descriptor import Descriptor

PLATFORM = Descriptor(
    kind="platforms",
    name="cpu",
    contract=(1, 0),
    implementation="hardpoint_cpu.platform:CpuPlatform",
    summary="the processor's cores, through PyTorch",
    data={"fallback": True},
)
ATTENTION = Descriptor(
    kind="attention_backends",
    name="cpu",
    contract=(1, 0),
    implementation="hardpoint_cpu.attention:CpuAttention",
    summary="paged attention from PyTorch's CPU kernels, split over the context",
)
ONEDNN = Descriptor(
    kind="linear_kernels",
    name="onednn",
    contract=(1, 0),
    implementation="hardpoint_cpu.linear:OneDnnLinear",
    summary="dense weights in oneDNN's blocked format",
)
OPS = Descriptor(
    kind="ops",
    name="cpu",
    contract=(1, 0),
    implementation="hardpoint_cpu.ops:CpuOps",
    summary="ops in fewer passes over memory than their references",
)
