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
    "mixed-over-float8_e4m3fn-scaled",
)
SHARING = ((257, 1), (300, 1), (385, 1), (270, 1))


@pytest.fixture(scope="module")
def device() -> Device:
    return CpuPlatform().open(0, EngineConfig.of(threads=1))


@pytest.mark.parametrize("label", SHORT)
def test_attention_agrees_with_dense_attention(label: str, device: Device) -> None:
    from hardpoint_triton.attention import TritonAttention

    check_attention(TritonAttention(), device, CASES[label])


def test_the_last_program_merges_what_several_have(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in steps of many requests; in those of few a further launch merges."""
    from hardpoint_triton import decode
    from hardpoint_triton.attention import TritonAttention

    monkeypatch.setattr(decode, "JOINED_REQUESTS", 0)
    check_attention(TritonAttention(), device, replace(CASES["decode"], requests=((300, 1), (17, 1)), decodes=2))


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


DENSE = (
    AttentionCase(label="some", requests=((40, 1), (64, 64), (48, 16), (80, 30), (21, 21)), decodes=1),
    AttentionCase(label="shared", requests=((40, 1), (64, 32), (50, 18), (52, 20)), decodes=1, shared=32),
)


@pytest.mark.parametrize("fused", [False, True], ids=["cache", "fused"])
@pytest.mark.parametrize("case", DENSE, ids=lambda case: case.label)
def test_chunks_attend_to_their_own_and_to_gathered_tokens(
    case: AttentionCase, fused: bool, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First and continued chunks, some behind a shared prefix, some too small for a gather, in one step."""
    from hardpoint_triton import chunks
    from hardpoint_triton.attention import TritonAttention

    monkeypatch.setattr(chunks, "LEAST_ROWS", 20)
    check_attention(TritonAttention(), device, replace(case, fused=fused, dtype="float16"))


def formula(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, count: int, scale: float, *, causal: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Do what cuDNN's call does."""
    group = q.shape[1] // k.shape[1]
    q, k, v = (x.unflatten(0, (count, -1)).double() for x in (q, k, v))
    scores = torch.einsum("blhd,bshd->bhls", q, k.repeat_interleave(group, 2)) * scale
    if causal:
        scores = scores.masked_fill(torch.ones(scores.shape[2:], dtype=torch.bool).triu(1), -math.inf)
    out = (
        torch.einsum("bhls,bshd->blhd", scores.softmax(-1), v.repeat_interleave(group, 2))
        .flatten(0, 1)
        .half()
        .contiguous()
    )
    return out, None if causal else scores.logsumexp(-1).transpose(1, 2).flatten(0, 1).float()


def test_what_comes_often_is_cudnns(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal prompts and rectangles behind earlier tokens go to cuDNN once they have brought enough work."""
    from hardpoint_cuda import attention
    from hardpoint_triton import chunks

    calls = []

    def noted(q: torch.Tensor, k: torch.Tensor, *rest: object, causal: bool) -> object:
        calls.append((len(q), len(k), causal))
        return formula(q, k, *rest, causal=causal)  # type: ignore[arg-type]

    steps = {"PROMPT_STEP": 1, "ROWS_STEP": 16, "EARLIER_STEP": 32, "LEAST_PAIRS": 250, "LEAST_RECTANGLE": 1}
    for name, value in steps.items():
        monkeypatch.setattr(attention, name, value)
    monkeypatch.setattr(chunks, "LEAST_ROWS", 8)
    monkeypatch.setattr(attention, "fused_attention", noted)
    case = AttentionCase(label="equal", requests=((17, 17),) * 2, fused=True, dtype="float16")
    check_attention(attention.CudnnAttention(), device, case)
    # 289 pairs of the two together; each alone has 144, the second time enough.
    assert calls == [(34, 34, True), (17, 17, True)]
    calls.clear()
    later = replace(case, label="later", requests=((40, 1), (90, 35), (64, 16)), decodes=1, num_heads=6)
    check_attention(attention.CudnnAttention(), device, later)
    assert calls == [(32, 32, False), (16, 32, False)] * 2
    calls.clear()
    shared = replace(case, label="shared", requests=((48, 7), (50, 9)), shared=32)
    shared = replace(shared, requests=((39, 7), (41, 9)))
    check_attention(attention.CudnnAttention(), device, shared)
    assert calls == [(16, 32, False)]
