"""What this package offers. Imports nothing that costs."""

from __future__ import annotations

from hardpoint.contract.descriptor import Descriptor

PLATFORM = Descriptor(
    kind="platforms",
    name="cuda",
    contract=(1, 0),
    implementation="hardpoint_cuda.platform:CudaPlatform",
    summary="NVIDIA GPUs",
)
ATTENTION = Descriptor(
    kind="attention_backends",
    name="cudnn",
    contract=(1, 0),
    implementation="hardpoint_cuda.attention:CudnnAttention",
    summary="cuDNN for recurring shapes of long prompts, Triton for the rest",
    requires=("triton",),
    remedy="pip install hardpoint[cuda]",
)
FLASHINFER = Descriptor(
    kind="attention_backends",
    name="flashinfer",
    contract=(1, 0),
    implementation="hardpoint_cuda.flashinfer_attention:FlashinferAttention",
    summary="FlashInfer's paged wrappers; compiles for tens of seconds at first use, and runs without graphs",
    requires=("triton", "flashinfer"),
    remedy="pip install hardpoint[cuda,flashinfer]",
)
SCALED_MM = Descriptor(
    kind="linear_kernels",
    name="scaled_mm",
    contract=(1, 0),
    implementation="hardpoint_cuda.scaled_mm:ScaledMm",
    summary="8-bit floats, inputs too, on the matrix units",
    requires=("triton",),
    remedy="pip install hardpoint[cuda]",
)
SCALED_MM_BLOCK = Descriptor(
    kind="linear_kernels",
    name="scaled_mm_block",
    contract=(1, 0),
    implementation="hardpoint_cuda.scaled_mm_block:ScaledMmBlock",
    summary="8-bit floats with a scale per block of 128 x 128, inputs too, on the matrix units",
    requires=("triton",),
    remedy="pip install hardpoint[cuda]",
)
LINEAR = Descriptor(
    kind="linear_kernels",
    name="cuda",
    contract=(1, 0),
    implementation="hardpoint_cuda.linear:CudaLinear",
    summary="dense layers, fused: small weights and few rows in CUDA C++, the rest as triton does",
    requires=("triton", "cupy"),
    remedy="pip install hardpoint[cuda]",
)
