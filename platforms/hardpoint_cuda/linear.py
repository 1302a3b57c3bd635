"""Dense linear layers of NVIDIA GPUs with CUDA C++ for small weights; chosen by ``--linear-backend cuda``."""

from __future__ import annotations

from typing import ClassVar

from hardpoint_cuda.stream import stream
from hardpoint_triton.linear import TritonLinear


class CudaLinear(TritonLinear):
    """Triton's linear layers, with small weights and few rows in CUDA C++."""

    name: ClassVar[str] = "cuda"
    stream = staticmethod(stream)
