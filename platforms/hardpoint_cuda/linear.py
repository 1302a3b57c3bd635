"""Dense linear layers of NVIDIA GPUs."""

from __future__ import annotations

from typing import ClassVar

from hardpoint_cuda.stream import stream
from hardpoint_triton.linear import TritonLinear


class CudaLinear(TritonLinear):
    """Triton's linear layers with few rows in CUDA C++."""

    name: ClassVar[str] = "cuda"
    stream = staticmethod(stream)
