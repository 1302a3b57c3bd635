"""The processor as platform and as device."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from hardpoint.config import EngineConfig, apply_adjustments
from hardpoint.contract.device import Device
from hardpoint.contract.platform import ModelShape, Platform
from hardpoint.plugins.members import check_members
from hardpoint_cpu import machine, platform
from hardpoint_cpu.machine import split_cores
from hardpoint_cpu.platform import STEP_TOKENS, CpuPlatform

SHAPE = ModelShape(
    architecture="X",
    num_layers=2,
    hidden_size=64,
    num_heads=4,
    num_kv_heads=2,
    head_size=16,
    vocab_size=100,
    context=4096,
    dtype="float32",
)


@pytest.fixture
def device():
    before = torch.get_num_threads()
    yield CpuPlatform().open(0, EngineConfig.of(threads=1))
    torch.set_num_threads(before)


def test_members_are_all_there(device) -> None:
    assert check_members(Platform, CpuPlatform()) == []
    assert check_members(Device, device) == []


def test_describing_loads_no_torch() -> None:
    code = (
        "import sys; from hardpoint_cpu import descriptors; from hardpoint_cpu.platform import CpuPlatform as P;"
        "p = P(); assert p.probe() is None; p.capabilities(p.devices()[0]); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("flags", "arch"),
    [
        ("sse2 avx2 fma bmi2 avx512f avx512bw avx512vl avx512_vnni avx512_bf16", "x86-64-v4/avx512_vnni/avx512_bf16"),
        ("sse2 avx2 fma bmi2", "x86-64-v3"),
        ("sse2", "x86-64"),
    ],
)
def test_architecture_comes_from_the_flags(tmp_path: Path, monkeypatch, flags: str, arch: str) -> None:
    monkeypatch.setattr(machine.platform, "machine", lambda: "x86_64")
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\nmodel name\t: Brand 9000\nflags\t\t: {flags}\n")
    found = machine.machine(cpuinfo)
    assert (found.name, found.arch) == ("Brand 9000", arch)


def test_cores_are_split_without_overlap() -> None:
    assert split_cores((0, 1, 2, 3, 6, 7), 2) == ((0, 1, 2), (3, 6, 7))
    assert split_cores((0, 1, 2, 3, 4), 2) == ((0, 1), (2, 3, 4))
    assert split_cores((5,), 2) == ((5,), (5,))


def test_threads_are_settled_before_workers_start(monkeypatch) -> None:
    monkeypatch.setattr(platform, "usable_cores", lambda: tuple(range(8)))
    cpu = CpuPlatform()
    config = EngineConfig.of(tensor_parallel_size=2)
    (change,) = cpu.constrain(SHAPE, config)
    assert (change.field, change.value) == ("platform.threads", 4)
    config = apply_adjustments(config, "cpu", [change])
    assert cpu.constrain(SHAPE, config) == []
    launch = cpu.launch(config)
    assert launch.affinity == ((0, 1, 2, 3), (4, 5, 6, 7))
    assert launch.threads == 4
    (change,) = cpu.constrain(SHAPE, EngineConfig.of(threads=100))
    assert change.value == 8
    assert "8 cores" in change.reason


def test_a_step_holds_what_the_settings_ask() -> None:
    cpu = CpuPlatform()
    limits = cpu.limits(SHAPE, EngineConfig.of())
    assert (limits.max_tokens, limits.max_requests) == (STEP_TOKENS, 256)
    assert cpu.limits(SHAPE, EngineConfig.of(max_num_seqs=2000)).max_tokens == 2000
    assert cpu.limits(SHAPE, EngineConfig.of(enable_chunked_prefill=False)).max_tokens == SHAPE.context
    limits = cpu.limits(SHAPE, EngineConfig.of(max_num_batched_tokens=64))
    assert (limits.max_tokens, limits.max_requests) == (64, 64)


def test_ranks_share_the_free_memory(device) -> None:
    alone = device.memory()
    assert alone.free is not None
    assert alone.total is not None
    assert 0 < alone.free <= alone.total
    shared = CpuPlatform().open(1, EngineConfig.of(tensor_parallel_size=2, threads=1)).memory()
    assert shared.free is not None
    assert shared.free < alone.free * 0.75


def test_peak_sees_an_allocation_and_starts_anew(device) -> None:
    device.trim()
    device.reset_peak()
    before = device.memory().peak
    if before is None:
        pytest.skip("this system tells no peak")
    block = torch.ones(64 << 20, dtype=torch.uint8)
    after = device.memory().peak
    assert after >= before + (50 << 20)
    del block
    device.trim()
    device.reset_peak()
    assert device.memory().peak <= after


def test_staging_goes_round_and_shares_memory(device) -> None:
    staging = device.staging((4, 2), "int64", depth=2)
    staging.host[:] = 1
    first = staging.upload(3)
    assert first.shape == (3, 2)
    staging.host[:] = 2
    second = staging.upload(4)
    assert first.unique().tolist() == [1]
    assert second.unique().tolist() == [2]
    staging.host[:] = 3
    assert staging.device.unique().tolist() == [3]
    assert first.unique().tolist() == [3]
    with pytest.raises(ValueError, match="depth is 0"):
        device.staging((1,), "int64", depth=0)


def test_a_copy_to_the_host_stays_as_it_was(device) -> None:
    tensor = torch.tensor([1.5, 2.5], dtype=torch.bfloat16)
    copy = device.to_host(tensor)
    tensor.zero_()
    assert copy.ready()
    np.testing.assert_array_equal(copy.result(), [1.5, 2.5])


def test_out_of_memory_is_recognised(device) -> None:
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert device.is_oom(caught.value)
    assert device.is_oom(MemoryError())
    assert not device.is_oom(RuntimeError("shapes do not match"))
    assert not device.is_oom(ValueError("can't allocate memory"))


def test_events_and_streams_are_done_at_once(device) -> None:
    event = device.event()
    with device.use(device.stream()):
        event.record()
        event.wait()
    event.synchronize()
    device.synchronize()
    assert event.query()
    assert device.preparer() is None
    assert device.health() is None


def test_seed_repeats(device) -> None:
    device.seed(7)
    first = torch.rand(3)
    device.seed(7)
    assert torch.equal(first, torch.rand(3))
