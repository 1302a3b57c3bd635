"""Decode steps prepared on static buffers give what eager steps give, whatever the number of rows.

The vendor below is a platform whose device replays prepared steps, and an attention backend that reads nothing of a
prepared step on the host: its host arrays are upper bounds there.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from hardpoint import LLM, SamplingParams
from prompts import prompts_with_shared_prefixes
from throwaway import Site, descriptor

VENDOR = '''
import torch
from hardpoint.contract.device import GraphSupport
from hardpoint.contract.limits import BatchShape
from hardpoint.testing.reference_attention import ReferenceAttention, ReferenceLayer, ReferencePlanner
from hardpoint_cpu.device import CpuDevice
from hardpoint_cpu.platform import CpuPlatform

RUNS = []


class Preparer:
    """Runs the step twice for every replay: running it again must change nothing."""

    def shapes(self, limits):
        return [BatchShape(tokens=n, requests=n, decode=True) for n in (2, 5)]

    def first(self, limits):
        return self.shapes(limits)[:1]

    def prepare(self, step, shape):
        result = step()

        def replay():
            RUNS.append(shape.requests)
            step()
            result.copy_(step())
            return result

        return replay

    def reset(self):
        RUNS.clear()


class ReplayingDevice(CpuDevice):
    def preparer(self):
        return Preparer()


class ReplayingPlatform(CpuPlatform):
    name = "replaying"

    def attention_backends(self):
        return ("static",)

    def open(self, index, config):
        info = self.devices()[index]
        return ReplayingDevice(info, self.capabilities(info), threads=1, ranks=1)


class StaticPlanner(ReferencePlanner):
    graphs = GraphSupport.DECODE


class StaticLayer(ReferenceLayer):
    def forward(self, q, kv, plan, sinks):
        if plan.num_decodes < plan.num_requests:
            return ReferenceLayer.forward(self, q, kv, plan, sinks)
        config = self.config
        k, v = kv[:, plan.block_table.long()].flatten(2, 3).repeat_interleave(config.num_heads // config.num_kv_heads, 3)
        position = torch.arange(k.shape[1])
        last = plan.seq_lens[:, None] - 1
        seen = position <= last
        if config.window is not None:
            seen &= position > last - config.window
        scores = torch.einsum("nhd,nshd->nhs", q, k) * config.scale
        weights = scores.masked_fill(~seen[:, None], float("-inf")).softmax(-1)
        return torch.einsum("nhs,nshd->nhd", weights, v)


class StaticAttention(ReferenceAttention):
    name = "static"

    def planner(self, device, spec, block_size, limits):
        return StaticPlanner()

    def layer(self, config, block_size):
        return StaticLayer(config, block_size)
'''


@pytest.fixture
def vendor(site: Site) -> Site:
    """Install the vendor's package."""
    site.add(
        "vendor-replay",
        {
            "replay_vendor": VENDOR,
            "replay_platform": descriptor("platforms", "replaying", "replay_vendor:ReplayingPlatform"),
            "replay_attention": descriptor("attention_backends", "static", "replay_vendor:StaticAttention"),
        },
        {"platforms": {"replaying": "replay_platform:D"}, "attention_backends": {"static": "replay_attention:D"}},
    )
    return site


@pytest.mark.parametrize("async_scheduling", [False, True])
def test_prepared_steps_give_what_eager_steps_give(tiny: Path, vendor: Site, async_scheduling: bool) -> None:
    """Seven requests of different lengths: batches wider than the widest shape, between shapes and narrower."""
    prompts = prompts_with_shared_prefixes(7, vocab=200)
    params = [
        SamplingParams(temperature=0.0, max_tokens=6 + 3 * i, ignore_eos=True, detokenize=False)
        for i in range(len(prompts))
    ]
    outputs = {}
    for eager in (True, False):
        with LLM(
            str(tiny),
            dtype="float32",
            skip_tokenizer_init=True,
            max_model_len=128,
            block_size=4,
            platform="replaying",
            allow_plugins="vendor-replay",
            enforce_eager=eager,
            async_scheduling=async_scheduling,
        ) as llm:
            import replay_vendor

            replay_vendor.RUNS.clear()
            done = llm.generate([{"prompt_token_ids": p} for p in prompts], params, use_tqdm=False)
            outputs[eager] = [list(output.outputs[0].token_ids) for output in done]
            assert set(replay_vendor.RUNS) == (set() if eager else {2, 5})
    assert outputs[True] == outputs[False]
