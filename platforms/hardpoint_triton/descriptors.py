"""What this package offers. Imports nothing that costs."""

from __future__ import annotations

from hardpoint.contract.descriptor import Descriptor

ATTENTION = Descriptor(
    kind="attention_backends",
    name="triton",
    contract=(1, 0),
    implementation="hardpoint_triton.attention:TritonAttention",
    summary="paged attention for any GPU that Triton compiles for",
    requires=("triton",),
    remedy="pip install hardpoint[cuda] or hardpoint[rocm]",
)
OPS = Descriptor(
    kind="ops",
    name="triton",
    contract=(1, 0),
    implementation="hardpoint_triton.ops:TritonOps",
    summary="norms, rotary, activations for any GPU that Triton compiles for",
    requires=("triton",),
    remedy="pip install hardpoint[cuda] or hardpoint[rocm]",
)
LINEAR = Descriptor(
    kind="linear_kernels",
    name="triton",
    contract=(1, 0),
    implementation="hardpoint_triton.linear:TritonLinear",
    summary="dense layers, fused: few rows at the memory's rate, many by the vendor's product",
    requires=("triton",),
    remedy="pip install hardpoint[cuda] or hardpoint[rocm]",
)
