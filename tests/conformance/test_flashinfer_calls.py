"""The ``flashinfer`` backend's calls, answered by a stand-in that does what FlashInfer documents; the real one needs a GPU."""

from __future__ import annotations

import importlib
import math
import sys
from types import ModuleType

import pytest
import torch

from hardpoint.config import EngineConfig
from hardpoint.contract.attention import AttentionQuery
from hardpoint.contract.device import Device
from hardpoint.contract.errors import PluginError
from hardpoint.plugins import Catalogue
from hardpoint.testing.conformance.attention import AttentionCase, check_attention
from hardpoint_cpu.platform import CpuPlatform

triton = pytest.importorskip("triton")
if not triton.knobs.runtime.interpret:
    pytest.skip("Triton compiles in this run", allow_module_level=True)


class Wrapper:
    """Paged attention in the layout [pages, kv heads, page size, head size], causal to the end of each request."""

    made = 0

    def __init__(self, workspace: torch.Tensor, layout: str, use_tensor_cores: bool = False) -> None:
        assert workspace.dtype == torch.uint8
        assert layout == "HND"
        type(self).made += 1

    def attend(self, q, cache, out, query_start, starts, blocks, last, plan):
        keys, values = cache
        for at in range(len(last)):
            pages = blocks[starts[at] : starts[at + 1]].long()
            length = (len(pages) - 1) * plan["page_size"] + int(last[at])
            k, v = (x[pages].transpose(1, 2).flatten(0, 1)[:length].double() for x in (keys, values))
            rows = q[query_start[at] : query_start[at + 1]].double()
            group = plan["num_qo_heads"] // plan["num_kv_heads"]
            scores = torch.einsum("lhd,shd->hls", rows, k.repeat_interleave(group, 1)) * plan["sm_scale"]
            if cap := plan["logits_soft_cap"]:
                scores = cap * torch.tanh(scores / cap)
            before = torch.arange(length - len(rows), length)[:, None] - torch.arange(length)
            hidden = before < 0
            if plan["window_left"] >= 0:
                hidden |= before > plan["window_left"]
            weights = scores.masked_fill(hidden, -math.inf).softmax(-1)
            # A window's lost pages are read and hidden: what they hold must not matter.
            v = v.nan_to_num()
            found = torch.einsum("hls,shd->lhd", weights.nan_to_num(), v.repeat_interleave(group, 1))
            out[query_start[at] : query_start[at + 1]] = found.to(out.dtype)
        return out


class Decode(Wrapper):
    def plan(self, indptr, indices, last_page_len, head_dim, **plan):
        self.planned = (torch.arange(len(last_page_len) + 1), indptr, indices, last_page_len, plan)

    def run(self, q, cache, out):
        assert q.is_contiguous()
        assert len(q) == len(self.planned[3])
        return self.attend(q, cache, out, *self.planned)


class Prefill(Wrapper):
    def plan(self, qo_indptr, paged_kv_indptr, paged_kv_indices, paged_kv_last_page_len, head_dim_qk, causal, **plan):
        assert causal
        self.planned = (qo_indptr, paged_kv_indptr, paged_kv_indices, paged_kv_last_page_len, plan)

    def run(self, q, cache, out):
        assert q.is_contiguous()
        assert len(q) == int(self.planned[0][-1])
        return self.attend(q, cache, out, *self.planned)


@pytest.fixture
def backend(monkeypatch):
    module = ModuleType("flashinfer")
    module.BatchDecodeWithPagedKVCacheWrapper = Decode
    module.BatchPrefillWithPagedKVCacheWrapper = Prefill
    monkeypatch.setitem(sys.modules, "flashinfer", module)
    monkeypatch.delitem(sys.modules, "hardpoint_cuda.flashinfer_attention", raising=False)
    flashinfer_attention = importlib.import_module("hardpoint_cuda.flashinfer_attention")
    monkeypatch.setattr(flashinfer_attention, "WORKSPACE", 64)
    yield flashinfer_attention.FlashinferAttention()
    del sys.modules["hardpoint_cuda.flashinfer_attention"]


@pytest.fixture(scope="module")
def device() -> Device:
    return CpuPlatform().open(0, EngineConfig.of(threads=1))


MIXED = ((40, 1), (33, 1), (21, 21), (48, 16), (30, 2))


@pytest.mark.parametrize(
    "case",
    [
        AttentionCase(label="mixed", requests=MIXED, decodes=2, dtype="float16"),
        AttentionCase(label="fused", requests=MIXED[1:4], decodes=1, dtype="float16", fused=True),
        AttentionCase(label="window", requests=MIXED, decodes=2, dtype="float16", window=17, soft_cap=5.0),
        AttentionCase(label="decodes", requests=MIXED[:2], decodes=2, dtype="float16", num_heads=8),
    ],
    ids=lambda case: case.label,
)
def test_wrappers_are_planned_and_run_as_documented(case: AttentionCase, backend, device: Device) -> None:
    check_attention(backend, device, case)


def test_wrappers_are_reused_from_step_to_step(backend, device: Device) -> None:
    Decode.made = Prefill.made = 0
    case = AttentionCase(label="many", requests=((9, 1),) * 4 + ((8, 8),) * 3, decodes=4, dtype="float16")
    check_attention(backend, device, case)
    assert (Decode.made, Prefill.made) == (3, 3)


def test_refusals(backend) -> None:
    fine = {"head_size": 128, "num_heads": 8, "num_kv_heads": 2, "dtype": "bfloat16", "kv_dtype": "bfloat16"}
    fine |= {"block_size": 16, "arch": "sm90"}
    assert backend.reject(AttentionQuery(**fine)) == []
    worst = fine | {"head_size": 80, "dtype": "float32", "arch": "sm75", "sinks": True}
    assert len(backend.reject(AttentionQuery(**worst))) == 5


def test_where_it_is_not_installed_the_error_says_what_to_type() -> None:
    with pytest.raises(PluginError, match=r"flashinfer.*pip install hardpoint\[cuda,flashinfer\]"):
        Catalogue().create("attention_backends", "flashinfer")
