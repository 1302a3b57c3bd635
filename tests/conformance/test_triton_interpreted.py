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


def formula(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, prompts: int, scale: float) -> torch.Tensor:
    """Do what cuDNN's call does."""
    group = q.shape[1] // k.shape[1]
    q, k, v = (x.unflatten(0, (prompts, -1)).double() for x in (q, k, v))
    scores = torch.einsum("blhd,bshd->bhls", q, k.repeat_interleave(group, 2)) * scale
    scores = scores.masked_fill(torch.ones(scores.shape[2:], dtype=torch.bool).triu(1), -math.inf)
    out = torch.einsum("bhls,bshd->blhd", scores.softmax(-1), v.repeat_interleave(group, 2))
    return out.flatten(0, 1).half()


def test_recurring_steps_of_equal_prompts_are_cudnns(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shape that came often enough goes to cuDNN; other shapes and mixed steps do not."""
    from hardpoint_cuda import attention

    calls = []
    monkeypatch.setattr(attention, "LEAST_TOKENS", 16)
    monkeypatch.setattr(attention, "LEAST_STEPS", 1)
    monkeypatch.setattr(attention, "causal_attention", lambda *args: calls.append(args[3]) or formula(*args))
    case = AttentionCase(label="equal", requests=((17, 17),) * 2, fused=True, dtype="float16")
    check_attention(attention.CudnnAttention(), device, case)
    # The batch came once, each of its prompts alone twice.
    assert calls == [1]
    check_attention(attention.CudnnAttention(), device, replace(case, requests=((17, 17), (20, 3)), label="continued"))
    assert calls == [1]
