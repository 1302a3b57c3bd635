"""What the AMD platform reads from sysfs, with folders as the kernel driver makes them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from hardpoint.contract.device import DeviceInfo
from hardpoint.contract.errors import ConfigError, PluginError
from hardpoint_rocm import topology
from hardpoint_rocm.platform import RocmPlatform


def node(nodes: Path, number: int, *, bank: int = 0, name: str = "", **properties: int) -> None:
    folder = nodes / str(number)
    (folder / "mem_banks" / "0").mkdir(parents=True)
    (folder / "properties").write_text("".join(f"{key} {value}\n" for key, value in properties.items()))
    (folder / "name").write_text(f"{name}\n")
    (folder / "mem_banks" / "0" / "properties").write_text(f"heap_type {1 if bank else 0}\nsize_in_bytes {bank}\n")


@pytest.fixture
def nodes(tmp_path: Path) -> Path:
    node(tmp_path, 0, cpu_cores_count=64, simd_count=0)
    node(tmp_path, 1, bank=192 << 30, simd_count=1216, simd_per_cu=4, gfx_target_version=90402, unique_id=0xABC,
         location_id=0x0500, domain=0)  # fmt: skip
    node(tmp_path, 10, bank=24 << 30, name="navi31", simd_count=192, simd_per_cu=2, gfx_target_version=110000,
         unique_id=0xDEF, location_id=0xC300, domain=1)  # fmt: skip
    node(tmp_path, 2, simd_count=8, simd_per_cu=2, gfx_target_version=100306)
    return tmp_path


def test_gpus_are_read_in_the_drivers_order_and_processors_left_out(nodes: Path) -> None:
    found = topology.read_nodes(nodes)
    assert [(info.index, info.arch, info.compute_units) for info in found] == [
        (0, "gfx942", 304),
        (1, "gfx1036", 4),
        (2, "gfx1100", 96),
    ]
    assert [info.total_bytes for info in found] == [192 << 30, None, 24 << 30]
    assert [info.unified_memory for info in found] == [False, True, False]
    assert [info.pci for info in found][::2] == ["0000:05:00.0", "0001:c3:00.0"]
    assert found[0].uuid == "GPU-0000000000000abc"
    assert found[2].name == "navi31"


@pytest.mark.parametrize(
    ("version", "name"),
    [
        (90402, "gfx942"),
        (90500, "gfx950"),
        (90010, "gfx90a"),
        (90006, "gfx906"),
        (110000, "gfx1100"),
        (120001, "gfx1201"),
    ],
)
def test_architectures_have_llvms_names(version: int, name: str) -> None:
    assert topology.architecture(version) == name


@pytest.mark.parametrize(
    ("wanted", "indices"),
    [(None, [0, 1, 2]), ("", []), ("2,0", [0, 2]), ("0,7,1", [0]), ("GPU-0000000000000def", [2]), ("x", [])],
)
def test_amds_variables_leave_gpus_out(nodes: Path, wanted: str | None, indices: list[int]) -> None:
    assert [info.index for info in topology.visible(topology.read_nodes(nodes), wanted)] == indices


def test_the_second_variable_counts_what_the_first_one_left(nodes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROCR_VISIBLE_DEVICES", "1,2")
    monkeypatch.setenv("HIP_VISIBLE_DEVICES", "1")
    assert [info.index for info in topology.devices(nodes)] == [2]


def test_a_machine_without_the_driver_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topology, "KFD", tmp_path / "kfd")
    reason = RocmPlatform().probe()
    assert reason is not None
    assert "--device=/dev/kfd" in reason
    assert "--platform cpu" in reason


def test_a_driver_without_a_gpu_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    (tmp_path / "kfd").touch()
    monkeypatch.setattr(topology, "KFD", tmp_path / "kfd")
    monkeypatch.setattr(topology, "NODES", tmp_path / "nodes")
    assert "sees no GPU" in str(RocmPlatform().probe())


def test_used_memory_is_the_drivers_count_or_unknown(tmp_path: Path) -> None:
    (tmp_path / "0000:05:00.0").mkdir()
    (tmp_path / "0000:05:00.0" / "mem_info_vram_used").write_text("12345\n")
    assert topology.used_bytes("0000:05:00.0", tmp_path) == 12345
    assert topology.used_bytes("0000:06:00.0", tmp_path) is None


def test_what_architectures_can_do() -> None:
    def caps(arch: str):
        return RocmPlatform().capabilities(DeviceInfo(index=0, name="", uuid="", arch=arch, total_bytes=1))

    assert caps("gfx942").preferred_dtype == "bfloat16"
    assert caps("gfx942").kv_dtypes == {"float8_e4m3fn", "float8_e5m2"}
    assert caps("gfx1100").kv_dtypes == frozenset()
    assert caps("gfx906").dtypes == {"float32", "float16"}


def test_another_build_of_pytorch_is_refused_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    from hardpoint_rocm.device import RocmDevice

    monkeypatch.setattr(torch.version, "hip", None)
    info = DeviceInfo(index=0, name="gpu", uuid="", arch="gfx942", total_bytes=1)
    with pytest.raises(PluginError, match=r"not built for ROCm.*--platform cpu"):
        RocmDevice(info, RocmPlatform().capabilities(info))


def test_a_gpu_is_found_among_the_visible_ones(nodes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hardpoint_rocm import device

    shown = topology.read_nodes(nodes)[::2]
    monkeypatch.setattr(device.topology, "devices", lambda: shown)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    names = ["gfx942:sramecc+:xnack-", "gfx1100"]
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda at: SimpleNamespace(gcnArchName=names[at]))
    assert [device.ordinal(info) for info in shown] == [0, 1]
    names.reverse()
    with pytest.raises(ConfigError, match="HSA_OVERRIDE_GFX_VERSION"):
        device.ordinal(shown[0])
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match="HIP_VISIBLE_DEVICES"):
        device.ordinal(shown[0])
