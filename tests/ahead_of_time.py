"""Runs tiny models through a GPU platform's own code on a machine without that GPU, and compiles every kernel it launches.

    python tests/ahead_of_time.py hip gfx942 64 LlamaForCausalLM Qwen3MoeForCausalLM

Tensors live on the host, launches compile for the target and run nothing (results are zeros), so that what is shown is that
the Python around kernels works, and that every kernel compiles as it is launched. Prints a JSON line a compiled kernel:
name, spilled registers, and whether matrix instructions are in its assembly.

A program of its own: Triton decides when it is imported whether it interprets kernels.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import JITFunction
from triton.runtime.driver import driver

MATRIX = re.compile(r"v_mfma_|v_wmma_|v_swmmac_|wgmma\.mma_async|mma\.sync")


class AbsentGpu:
    """What Triton asks of a driver before it launches; there is nothing to launch on.

    Args:
        target: the GPU that is not there.
    """

    def __init__(self, target: GPUTarget) -> None:
        self._target = target

    def get_current_target(self) -> GPUTarget:
        return self._target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")


class Compiled:
    """Every kernel that was launched, by what Triton tells apart."""

    def __init__(self) -> None:
        self.kernels: dict[str, Any] = {}
        self._run = JITFunction.run

    def run(self, function: JITFunction[Any], *args: Any, grid: Any, warmup: bool, **keywords: Any) -> Any:
        """Compile in place of launching."""
        keywords.pop("launch_pdl", None)
        kernel = self._run(function, *args, grid=grid, warmup=True, **keywords)
        self.kernels[kernel.hash] = kernel
        return None

    def report(self) -> Iterator[dict[str, Any]]:
        """Yield a line a kernel."""
        for kernel in self.kernels.values():
            assembly = kernel.asm.get("amdgcn") or kernel.asm.get("ptx") or ""
            spills = [int(count) for count in re.findall(r"\.vgpr_spill_count:\s*(\d+)", assembly)]
            yield {
                "kernel": kernel.metadata.name,
                "spills": max(spills, default=0),
                "matrix": bool(MATRIX.search(assembly)),
                "shared": kernel.metadata.shared,
            }


@contextmanager
def absent(target: GPUTarget, compiled: Compiled) -> Iterator[None]:
    """Let Triton believe in a GPU, and PyTorch's allocations be zeros, which are tokens and lengths that exist."""
    empty, like, new = torch.empty, torch.empty_like, torch.Tensor.new_empty
    driver.set_active(AbsentGpu(target))  # type: ignore[arg-type]
    with (
        patch.object(JITFunction, "run", lambda function, *args, **keywords: compiled.run(function, *args, **keywords)),
        patch.object(torch, "empty", lambda *a, **k: empty(*a, **k).zero_()),
        patch.object(torch, "empty_like", lambda *a, **k: like(*a, **k).zero_()),
        patch.object(torch.Tensor, "new_empty", lambda *a, **k: new(*a, **k).zero_()),
        patch.object(torch.version, "hip", "7.0" if target.backend == "hip" else None),
    ):
        yield


def platform_of(target: GPUTarget) -> type:
    """Return the target's platform with one device that lives on the host."""
    from hardpoint.contract.device import DeviceInfo
    from hardpoint.contract.limits import BatchShape
    from hardpoint_cpu.device import CpuDevice
    from hardpoint_cpu.platform import CpuPlatform

    if target.backend == "hip":
        from hardpoint_rocm.platform import RocmPlatform as Real
    else:
        from hardpoint_cuda.platform import CudaPlatform as Real  # type: ignore[assignment]
    arch = target.arch if target.backend == "hip" else f"sm{target.arch}"

    class Replay:
        """A preparer that prepares nothing."""

        def shapes(self, limits: Any) -> list[BatchShape]:
            sizes = sorted({1, 4, limits.max_requests})
            return [BatchShape(tokens=n, requests=n, decode=True) for n in sizes]

        def first(self, limits: Any) -> list[BatchShape]:
            return self.shapes(limits)[:1]

        def prepare(self, step: Any, shape: BatchShape) -> Any:
            return step

        def reset(self) -> None:
            """Nothing is kept."""

    class HostDevice(CpuDevice):
        def preparer(self) -> Replay:
            return Replay()

    class Absent(Real):  # type: ignore[misc, valid-type]
        name = "absent"

        def probe(self) -> str | None:
            return None

        def devices(self) -> list[DeviceInfo]:
            return [
                DeviceInfo(
                    index=0, name=arch, uuid="", arch=arch, total_bytes=8 << 30, unified_memory=True, compute_units=4
                )
            ]

        def capabilities(self, info: DeviceInfo) -> Any:
            return replace(super().capabilities(info), pinned_host=False, streams=False, asynchronous=False)

        def attention_backends(self) -> tuple[str, ...]:
            return ("triton",)

        def launch(self, config: Any) -> Any:
            return CpuPlatform().launch(config)

        def open(self, index: int, config: Any) -> Any:
            device = CpuPlatform().open(0, config)
            device.__class__ = HostDevice
            device.info = self.devices()[0]
            device.caps = self.capabilities(device.info)
            return device

    return Absent


def run_models(target: GPUTarget, architectures: list[str], **settings: Any) -> None:
    """Generate a few tokens with a tiny model of each architecture."""
    from hardpoint import LLM, SamplingParams
    from hardpoint.testing.tiny_models import make_tiny

    plain = {"max_tokens": 4, "ignore_eos": True, "detokenize": False}
    params = [
        SamplingParams(temperature=0.0, **plain),
        SamplingParams(temperature=0.0, **plain),
        SamplingParams(temperature=0.8, top_p=0.9, seed=1, **plain),
        SamplingParams(temperature=0.8, top_k=9, seed=1, logprobs=2, **plain),
    ]
    prompts = [{"prompt_token_ids": list(range(3, 3 + length))} for length in (5, 20, 33, 9)]
    for architecture in architectures:
        with tempfile.TemporaryDirectory() as folder:
            make_tiny(architecture, Path(folder), seed=3, **SIZES)
            with LLM(
                folder, platform="absent", skip_tokenizer_init=True, max_model_len=64, kv_cache_memory="16M",
                max_num_seqs=4, dtype="bfloat16", allow_plugins=("*",), **settings,
            ) as llm:  # fmt: skip
                llm.generate(prompts, params, use_tqdm=False)


#: Heads and rows as wide as those of real models: they decide which tiles are compiled.
SIZES = {
    "hidden_size": 512,
    "intermediate_size": 1024,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 128,
}


def install(folder: Path, target: GPUTarget) -> None:
    """Make the platform ``absent`` known, as an installed package would be."""
    arguments = f"GPUTarget({target.backend!r}, {target.arch!r}, {target.warp_size})"
    (folder / "absent_gpu.py").write_text(
        "from hardpoint.contract.descriptor import Descriptor\n"
        "D = Descriptor(kind='platforms', name='absent', contract=(1, 0), implementation='absent_gpu_code:Absent')\n"
    )
    (folder / "absent_gpu_code.py").write_text(
        "from triton.backends.compiler import GPUTarget\nimport ahead_of_time\n"
        f"Absent = ahead_of_time.platform_of({arguments})\n"
    )
    info = folder / "absent_gpu-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: absent-gpu\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[hardpoint.platforms]\nabsent = absent_gpu:D\n")


def main(backend: str, arch: str, warp: str, *architectures: str) -> None:
    """Compile and report."""
    torch.set_num_threads(1)
    target = GPUTarget(backend, int(arch) if backend == "cuda" else arch, int(warp))
    compiled = Compiled()
    with tempfile.TemporaryDirectory() as folder, absent(target, compiled):
        install(Path(folder), target)
        sys.path[:0] = [folder, str(Path(__file__).parent)]
        run_models(target, list(architectures))
    for line in compiled.report():
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
