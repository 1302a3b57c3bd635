"""Decode steps prepared on static buffers give what eager steps give, whatever the number of rows.

The vendor below is a platform whose device replays prepared steps, and an attention backend that reads nothing of a
prepared step on the host: its host arrays are upper bounds there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hardpoint import LLM, SamplingParams
from hardpoint.outputs import BatchError
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
        # Slots that hold nothing yet may hold anything; a weight of zero does not hide NaN.
        return torch.einsum("nhs,nshd->nhd", weights, v.masked_fill(~seen[:, :, None, None], 0.0))


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


PROMPTS = prompts_with_shared_prefixes(7, vocab=200)


def opened(folder: Path, *, eager: bool, **changes: Any) -> LLM:
    settings = {
        "dtype": "float32",
        "skip_tokenizer_init": True,
        "max_model_len": 128,
        "block_size": 4,
        "platform": "replaying",
        "allow_plugins": "vendor-replay",
        "enforce_eager": eager,
        **changes,
    }
    return LLM(str(folder), **settings)


def both_ways(folder: Path, params: list[SamplingParams], **changes: Any) -> None:
    """Run ``PROMPTS`` eagerly and prepared, and hold the tokens against each other."""
    import replay_vendor

    outputs = {}
    for eager in (True, False):
        with opened(folder, eager=eager, **changes) as llm:
            replay_vendor.RUNS.clear()
            done = llm.generate([{"prompt_token_ids": p} for p in PROMPTS], params, use_tqdm=False)
            outputs[eager] = [list(output.outputs[0].token_ids) for output in done]
            assert bool(replay_vendor.RUNS) != eager
            if "num_blocks" in changes:
                assert llm.get_metrics()["preemptions"] > 0
    assert outputs[True] == outputs[False]


def sampling(index: int, **changes: Any) -> SamplingParams:
    """Return parameters of an own length for each index."""
    changes = {"temperature": 0.0, **changes}
    return SamplingParams(max_tokens=6 + 3 * index, ignore_eos=True, detokenize=False, **changes)


#: What rows of one batch ask for; prepared steps sample for all but the last set by themselves.
MIXES: dict[str, list[dict[str, Any]]] = {
    "greedy": [{}],
    "full": [{"temperature": 0.9}, {"temperature": 1.3, "top_p": 0.7}, {"temperature": 0.7, "min_p": 0.1}],
    "top-k": [{"temperature": 0.9, "top_k": 5}, {"temperature": 1.5, "top_k": 40, "top_p": 0.8, "min_p": 0.01}],
    "mixed": [{"temperature": 1.1, "top_k": 9}, {}, {"temperature": 0.8, "top_p": 0.9}],
    "eager": [{"temperature": 1.1}, {"presence_penalty": 1.0}, {"logit_bias": {5: 4.0}}, {"logprobs": 2}, {}],
}


@pytest.mark.parametrize("async_scheduling", [False, True])
@pytest.mark.parametrize("mix", MIXES)
def test_prepared_steps_give_what_eager_steps_give(
    tiny_llama: Path, vendor: Site, mix: str, async_scheduling: bool
) -> None:
    """Seven requests of different lengths: batches wider than the widest shape, between shapes and narrower."""
    asked = MIXES[mix]
    params = [sampling(i, seed=17 * i, **asked[i % len(asked)]) for i in range(len(PROMPTS))]
    both_ways(tiny_llama, params, async_scheduling=async_scheduling)


def test_prepared_steps_serve_several_groups_of_layers(tiny: Path, vendor: Site) -> None:
    """A model with sliding windows has several block tables."""
    both_ways(tiny, [sampling(i) for i in range(len(PROMPTS))])


@pytest.mark.parametrize("mix", ["greedy", "mixed"])
def test_preempted_rows_and_rows_used_again_change_nothing(tiny_llama: Path, vendor: Site, mix: str) -> None:
    """Fewer rows than requests, and fewer blocks than they need: rows change hands while steps are in flight."""
    asked = MIXES[mix]
    params = [sampling(2 + i, seed=5 * i, **asked[i % len(asked)]) for i in range(len(PROMPTS))]
    both_ways(tiny_llama, params, num_blocks=33, max_num_seqs=4, async_scheduling=True)


def test_an_aborted_row_leaves_nothing_to_the_next_one(tiny_llama: Path, vendor: Site) -> None:
    """Half of the requests end after a few steps; their rows go to the waiting ones."""
    request = [{"prompt_token_ids": p} for p in PROMPTS]
    params = [sampling(3, seed=i, temperature=0.8) for i in range(len(PROMPTS))]
    with opened(tiny_llama, eager=True, max_num_seqs=3) as llm:
        expected = [list(output.outputs[0].token_ids) for output in llm.generate(request, params, use_tqdm=False)]
    stopped = [one.replace(stop_token_ids=[expected[i][3]]) if i % 2 else one for i, one in enumerate(params)]
    with opened(tiny_llama, eager=False, max_num_seqs=3, async_scheduling=True) as llm:
        found = [list(output.outputs[0].token_ids) for output in llm.generate(request, stopped, use_tqdm=False)]
    for i, tokens in enumerate(expected):
        end = tokens.index(tokens[3]) + 1 if i % 2 else len(tokens)
        assert found[i] == tokens[:end]


def test_a_row_without_a_finite_logit_fails_alone(tiny_llama: Path, vendor: Site, monkeypatch) -> None:
    """The host learns it from the step's result; rows beside the failing one go on and are right."""
    from hardpoint_models.llama import Llama

    request, logits = [{"prompt_token_ids": p} for p in PROMPTS[:4]], Llama.logits
    with opened(tiny_llama, eager=True) as llm:
        expected = [list(o.outputs[0].token_ids) for o in llm.generate(request, sampling(8), use_tqdm=False)]

    def broken(self, hidden):
        found = logits(self, hidden)
        if len(found) == 5:
            found[1] = float("nan")
        return found

    monkeypatch.setattr(Llama, "logits", broken)
    with opened(tiny_llama, eager=False, async_scheduling=True) as llm, pytest.raises(BatchError) as caught:
        llm.generate(request, sampling(8), use_tqdm=False)
    failed = {failure.index for failure in caught.value.failures}
    assert 1 in failed
    assert 0 not in failed
    for i, result in enumerate(caught.value.outputs):
        assert (result is None) == (i in failed)
        assert result is None or list(result.outputs[0].token_ids) == expected[i]
