"""Triton's kernels in its interpreter, and cuDNN's long chunks with cuDNN's call replaced by its formula: no GPU needed.

The interpreter knows no bfloat16 products, so float32 and float16 run here; the GPU runs all types in ``test_cuda.py``.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from hardpoint.config import EngineConfig
from hardpoint.contract.device import Device
from hardpoint.ops.registry import OPS
from hardpoint.testing.conformance.attention import AttentionCase, attention_cases, check_attention
from hardpoint.testing.conformance.ops import check_body
from hardpoint_cpu.platform import CpuPlatform

triton = pytest.importorskip("triton")
if not triton.knobs.runtime.interpret:
    pytest.skip("Triton compiles in this run", allow_module_level=True)

CASES = {case.label: case for case in attention_cases()}
SHORT = (
    "decode",
    "decode-alone-window16",
    "mixed",
    "chunked-window33",
    "mixed-float32-window-cap-sinks",
    "decode-float16",
    "decode-alone-fused-window",
    "decode-float16-over-float8_e5m2",
)
SHARING = ((257, 1), (300, 1), (385, 1), (270, 1))


@pytest.fixture(scope="module")
def device() -> Device:
    return CpuPlatform().open(0, EngineConfig.of(threads=1))


@pytest.mark.parametrize("label", SHORT)
def test_attention_agrees_with_dense_attention(label: str, device: Device) -> None:
    from hardpoint_triton.attention import TritonAttention

    check_attention(TritonAttention(), device, CASES[label])


@pytest.mark.parametrize("fused", [False, True], ids=["composed", "fused"])
def test_what_decodes_share_is_read_once(fused: bool, device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a step that is planned as it comes, and in a prepared one."""
    from hardpoint_triton import cascade
    from hardpoint_triton.attention import TritonAttention

    launched = []
    attend = cascade.SharedWork.attend

    def counted(self: cascade.SharedWork, *args: object) -> object:
        launched.append(self.count)
        return attend(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(cascade, "LEAST_BYTES", 0.0)
    monkeypatch.setattr(cascade, "LEAST_GROUP_BYTES", 0.0)
    monkeypatch.setattr(cascade, "BYTES_PER_FLOP", 0.0)
    monkeypatch.setattr(cascade.SharedWork, "attend", counted)
    case = AttentionCase(
        label="sharing", requests=SHARING, decodes=4, shared=256, head_size=32, sinks=True, fused=fused
    )
    check_attention(TritonAttention(), device, case)
    assert launched == [1, 1]


@pytest.mark.parametrize("name", ["rms_norm", "silu_mul", "gelu_mul", "qk_norm_rope"])
def test_ops_agree_with_their_references(name: str, device: Device) -> None:
    from hardpoint_triton.ops import OPS as BODIES

    check_body(OPS[name], BODIES[name], torch.float32, device.torch_device)


def formula(
    self: object, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Do what cuDNN's call does, and refuse what would reach a real result through it."""
    assert not torch.isnan(k).any()
    assert not torch.isnan(v).any()
    group = q.shape[1] // k.shape[1]
    keys, values = (x[0].double().repeat_interleave(group, 0) for x in (k, v))
    scores = torch.einsum("lhd,hsd->hls", q.double(), keys) * self._config.scale  # type: ignore[attr-defined]
    if causal:
        assert q.shape[0] == k.shape[2]
        scores = scores.masked_fill(torch.ones(scores.shape[1:], dtype=torch.bool).triu(1), -math.inf)
    out = torch.einsum("hls,hsd->lhd", scores.softmax(-1), values).to(q.dtype)
    return out, scores.logsumexp(-1).transpose(0, 1).unsqueeze(-1).float()


def test_long_chunks_are_cut_and_merged_rightly(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks with and without earlier tokens, at and off the lengths to which cuDNN's calls are rounded."""
    from hardpoint_cuda.attention import LEAST_TOKENS, CudnnAttention, CudnnLayer

    monkeypatch.setattr(CudnnLayer, "_cudnn", formula)
    case: AttentionCase = CASES["long-chunks-bfloat16"]
    requests = tuple(request for request in case.requests if request[1] >= LEAST_TOKENS)
    assert len(requests) >= 4
    check_attention(CudnnAttention(), device, replace(case, requests=requests, decodes=0, dtype="float16"))
