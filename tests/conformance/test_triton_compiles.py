"""Kernels compile for a GPU that is not there, also where an argument is 1, which Triton makes a constant of."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton")

SCRIPT = """
from triton import compile
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from hardpoint_triton import stream_kernels

shared = dict(KIND=0, BIAS=False, RESIDUAL=False, SCALED=False, X_SCALED=False, EVEN=True, EARLY=256, FIRST_WAVE=528, PDL=True)
kernels = (
    (stream_kernels.one_row, dict(BLOCK_N=4, BLOCK_K=256, STAGES=3, NORM=True)),
    (stream_kernels.few_rows, dict(ROWS=16, BLOCK_N=64, BLOCK_K=64, SPLIT=2, STAGES=3)),
)
numbers = dict(n_out="i32", k_in="i32", rows="i32", x_stride="i32", eps="fp32", offset="fp32")
pointers = dict(weight_scale="*fp32", x_scale="*fp32", partial="*fp32", arrived="*i32")
for kernel, own in kernels:
    names = [parameter.name for parameter in kernel.params]
    constants = {name: value for name, value in {**shared, **own, "n_out": 1}.items() if name in names}
    types = {n: "constexpr" if n in constants else (numbers | pointers).get(n, "*bf16") for n in names}
    source = ASTSource(kernel, types, {(names.index(n),): value for n, value in constants.items()})
    compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 4})
    print("compiled", kernel.__name__)
"""


def test_a_layer_of_one_output_feature_compiles() -> None:
    """The gate of a shared expert is one."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["compiled", "one_row", "compiled", "few_rows"]
