"""Steps that do not fit the device's memory: run in parts where that helps, else the request that does not fit ends alone.

The vendor below is a processor whose attention runs out of memory when a step has too many tokens, or a sequence is too
long for it; what it may have of either is set by the test.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hardpoint import LLM, SamplingParams
from hardpoint.contract.errors import EngineDeadError, RequestError, StepFailedError
from hardpoint.outputs import BatchError
from prompts import prompts_with_shared_prefixes
from throwaway import Site, descriptor

VENDOR = """
from hardpoint.testing.reference_attention import ReferenceAttention, ReferenceLayer
from hardpoint_cpu.device import CpuDevice
from hardpoint_cpu.platform import CpuPlatform

LIMITS = {}
STEPS = []


class TightDevice(CpuDevice):
    def health(self):
        return LIMITS.get("health")


class TightPlatform(CpuPlatform):
    name = "tight"

    def attention_backends(self):
        return ("tight",)

    def open(self, index, config):
        info = self.devices()[index]
        return TightDevice(info, self.capabilities(info), threads=1, ranks=1)


class TightLayer(ReferenceLayer):
    def forward(self, q, kv, plan, sinks):
        STEPS.append(q.shape[0])
        if q.shape[0] > LIMITS.get("tokens", 10**9):
            raise MemoryError(f"{q.shape[0]} tokens")
        if int(plan.seq_lens.max()) > LIMITS.get("length", 10**9):
            raise MemoryError("a long sequence")
        if int(plan.seq_lens.max()) == LIMITS.get("fault"):
            raise ArithmeticError("a fault in a kernel")
        return ReferenceLayer.forward(self, q, kv, plan, sinks)


class TightAttention(ReferenceAttention):
    name = "tight"

    def layer(self, config, block_size):
        return TightLayer(config, block_size)
"""


@pytest.fixture
def tight(tiny_llama: Path, site: Site) -> Iterator[Any]:
    """Install the vendor's package and give its module."""
    site.add(
        "vendor-tight",
        {
            "tight_vendor": VENDOR,
            "tight_platform": descriptor("platforms", "tight", "tight_vendor:TightPlatform"),
            "tight_attention": descriptor("attention_backends", "tight", "tight_vendor:TightAttention"),
        },
        {"platforms": {"tight": "tight_platform:D"}, "attention_backends": {"tight": "tight_attention:D"}},
    )
    import tight_vendor

    yield tight_vendor
    tight_vendor.LIMITS.clear()
    tight_vendor.STEPS.clear()


def engine(model: Path, **settings: Any) -> LLM:
    return LLM(
        str(model),
        dtype="float32",
        skip_tokenizer_init=True,
        max_model_len=128,
        block_size=4,
        platform="tight",
        allow_plugins="vendor-tight",
        **settings,
    )


def greedy(tokens: int, **more: Any) -> SamplingParams:
    return SamplingParams(temperature=0.0, max_tokens=tokens, ignore_eos=True, detokenize=False, **more)


def test_steps_in_parts_give_what_whole_steps_give(tiny_llama: Path, tight: Any) -> None:
    """Prompts that share prefixes within a step, log-probabilities of prompts, and decodes beside prefills."""
    prompts = [{"prompt_token_ids": p} for p in prompts_with_shared_prefixes(5, vocab=200)]
    params = [greedy(3 + 2 * i, logprobs=2, prompt_logprobs=1 if i % 3 == 0 else None) for i in range(len(prompts))]
    told = []
    for tokens, async_scheduling in ((10**9, False), (21, False), (16, True)):
        tight.LIMITS["tokens"] = tokens
        with engine(tiny_llama, async_scheduling=async_scheduling) as llm:
            tight.STEPS.clear()
            done = llm.generate(prompts, params, use_tqdm=False)
        completed = [step for step in tight.STEPS if step <= tokens]
        assert max(completed) > min(tokens, 21) // 2, "steps are cut smaller than they must be"
        told.append(
            [
                (
                    list(output.outputs[0].token_ids),
                    [sorted(step) for step in output.outputs[0].logprobs or ()],
                    [None if step is None else sorted(step) for step in output.prompt_logprobs or ()],
                )
                for output in done
            ]
        )
    assert told[0] == told[1] == told[2]


def test_only_the_request_that_cannot_fit_fails(tiny_llama: Path, tight: Any) -> None:
    prompts = [[9, 8, 7], list(range(1, 70)), [4, 5, 6, 7]]
    with engine(tiny_llama) as llm:
        expected = [list(o.outputs[0].token_ids) for o in llm.generate(prompts, greedy(8), use_tqdm=False)]
        llm.reset_prefix_cache()
        tight.LIMITS["length"] = 40
        with pytest.raises(BatchError) as caught:
            llm.generate(prompts, greedy(8), use_tqdm=False)
        assert [failure.index for failure in caught.value.failures] == [1]
        assert "memory does not hold" in str(caught.value.failures[0].error)
        assert "--memory-fraction" in str(caught.value.failures[0].error)
        for index in (0, 2):
            done = caught.value.outputs[index]
            assert done is not None
            assert list(done.outputs[0].token_ids) == expected[index]
        # A sequence that outgrows the memory while it decodes ends too, alone.
        with pytest.raises(BatchError) as caught:
            llm.generate([[9, 8, 7], list(range(1, 38))], greedy(8), use_tqdm=False)
        assert [failure.index for failure in caught.value.failures] == [1]
        tight.LIMITS.clear()
        again = [list(o.outputs[0].token_ids) for o in llm.generate(prompts, greedy(8), use_tqdm=False)]
        assert again == expected


def test_a_request_that_reads_what_was_not_computed_fails_with_it(tiny_llama: Path, tight: Any) -> None:
    """The second prompt takes its first 48 tokens from the first one's blocks, in the same step."""
    first = list(range(1, 70))
    with engine(tiny_llama, max_num_batched_tokens=256) as llm:
        tight.LIMITS["length"] = 40
        with pytest.raises(BatchError) as caught:
            llm.generate([first, [*first[:48], 3, 3]], greedy(4), use_tqdm=False)
        assert [failure.index for failure in caught.value.failures] == [0, 1]
        tight.LIMITS.clear()
        shared = llm.generate([first, [*first[:48], 3, 3]], greedy(4), use_tqdm=False)
    with engine(tiny_llama, enable_prefix_caching=False) as llm:
        alone = llm.generate([first, [*first[:48], 3, 3]], greedy(4), use_tqdm=False)
    assert [o.outputs[0].token_ids for o in shared] == [o.outputs[0].token_ids for o in alone]


def test_a_fault_that_leaves_the_device_sound_does_not_end_the_engine(tiny_llama: Path, tight: Any) -> None:
    with engine(tiny_llama) as llm:
        expected = list(llm.generate([[9, 8, 7]], greedy(8), use_tqdm=False)[0].outputs[0].token_ids)
        tight.LIMITS["fault"] = 7
        with pytest.raises(StepFailedError, match="ArithmeticError: a fault in a kernel"):
            llm.generate([[9, 8, 7]], greedy(8), use_tqdm=False)
        tight.LIMITS.clear()
        assert list(llm.generate([[9, 8, 7]], greedy(8), use_tqdm=False)[0].outputs[0].token_ids) == expected
        with pytest.raises(RequestError):
            llm.generate([[9, 8, 10**6]], greedy(8), use_tqdm=False)


def test_a_broken_device_ends_the_engine_with_its_own_words(tiny_llama: Path, tight: Any) -> None:
    with engine(tiny_llama) as llm:
        tight.LIMITS.update(fault=7, health="an illegal memory access was encountered")
        for _ in range(2):
            with pytest.raises(
                EngineDeadError, match=r"a fault in a kernel; device .* cannot go on: an illegal memory"
            ):
                llm.generate([[9, 8, 7]], greedy(8), use_tqdm=False)
