"""The whole engine's greedy tokens are those of transformers, for requests that arrive late, share, wait and are evicted."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hardpoint import LLM, SamplingParams
from hardpoint.config import EngineConfig
from hardpoint.engine.assembly import assemble
from hardpoint.engine.in_process import InProcessClient
from hardpoint.engine.messages import EngineRequest, SchedulerStats
from hardpoint.testing.tiny_models import ARCHITECTURES, FALLBACK_ARCHITECTURES, VOCAB

OUTPUT = 64
#: Three that the fallback's probe sees differ most: parallel blocks with fused qkv, transposed layers, windows and scales.
FALLBACK = ("GPTNeoXForCausalLM", "GPT2LMHeadModel", "Cohere2ForCausalLM")
#: Cache blocks in which about two of the five sequences fit: fewer where layers forget, more where they form two groups.
BLOCKS = {
    "MistralForCausalLM": 12,
    **dict.fromkeys(("Gemma2ForCausalLM", "Gemma3ForCausalLM", "GptOssForCausalLM", "Cohere2ForCausalLM"), 42),
}
NAMES = [name for name in ARCHITECTURES if name not in FALLBACK_ARCHITECTURES or name in FALLBACK]


def prompts() -> list[list[int]]:
    """Return prompts of which the second and third extend the first, and the last repeats the third."""
    rng = np.random.default_rng(11)
    first, second, third, alone = (rng.integers(3, VOCAB, size).tolist() for size in (41, 9, 23, 30))
    return [first, first + second, first[:32] + third, alone, first[:32] + third]


def run_staggered(folder: Path, **settings: Any) -> tuple[list[list[int]], SchedulerStats]:
    """Add a prompt every few steps; return the tokens of each and the last statistics."""
    config = EngineConfig.of(
        model=str(folder), dtype="float32", skip_tokenizer_init=True, threads=1, max_model_len=160, **settings
    )
    client = InProcessClient(*assemble(config))
    params = SamplingParams(temperature=0.0, max_tokens=OUTPUT, ignore_eos=True, detokenize=False)
    got: dict[int, list[int]] = defaultdict(list)
    finished: set[int] = set()
    waiting = list(enumerate(prompts(), 1))
    stats = SchedulerStats()
    try:
        for turn in range(5000):
            if waiting and turn % 6 == 0:
                handle, tokens = waiting.pop(0)
                request = EngineRequest(
                    request_id=str(handle), handles=(handle,), token_ids=np.array(tokens, np.int32), params=params
                )
                client.add(request)
            outputs = client.poll(0.0)
            if outputs is None:
                continue
            at = 0
            for handle, count in zip(outputs.handles.tolist(), outputs.counts.tolist(), strict=True):
                got[handle] += outputs.tokens[at : at + count].tolist()
                at += count
            for end in outputs.finished:
                assert end.reason == "length", end.error
                finished.add(end.handle)
            stats = outputs.stats or stats
            if len(finished) == len(prompts()):
                break
    finally:
        client.close()
    return [got[handle] for handle in sorted(got)], stats


@torch.no_grad()
def assert_greedy(model: Any, prompt: list[int], output: list[int]) -> None:
    """Assert that every token is the most likely one behind all tokens before it: what greedy decoding gives."""
    logits = model(torch.tensor([prompt + output])).logits[0, len(prompt) - 1 : -1]
    best = logits.argmax(-1).tolist()
    wrong = [i for i, (mine, theirs) in enumerate(zip(output, best, strict=True)) if mine != theirs]
    assert not wrong, f"output token {wrong[0]} is {output[wrong[0]]}, transformers' best is {best[wrong[0]]}"


@pytest.mark.parametrize("name", NAMES)
def test_greedy_tokens(name: str, tiny: Callable[[str], Path], reference: Callable[[Path], Any]) -> None:
    folder, model = tiny(name), reference(tiny(name))
    # Some sequences wait, some are preempted; 24 tokens a step cut every prompt.
    outputs, stats = run_staggered(
        folder, block_size=8, num_blocks=BLOCKS.get(name, 27), max_num_batched_tokens=24, max_num_seqs=4
    )
    assert [len(output) for output in outputs] == [OUTPUT] * len(prompts())
    for prompt, output in zip(prompts(), outputs, strict=True):
        assert_greedy(model, prompt, output)
    assert outputs[2] == outputs[4]
    assert sum(len(set(output)) for output in outputs) > 5 * len(outputs)
    assert stats.preemptions > 0
    assert stats.prefix_hits > 0
    assert stats.blocks_used == 0
    with torch.no_grad():
        first = torch.tensor([prompts()[0]])
        generated = model.generate(
            first, attention_mask=torch.ones_like(first), max_new_tokens=OUTPUT, min_new_tokens=OUTPUT, do_sample=False,
            eos_token_id=None, pad_token_id=0,
        )  # fmt: skip
    assert outputs[0] == generated[0, first.shape[1] :].tolist()


@pytest.mark.parametrize("name", ["Olmo2ForCausalLM", "GptOssForCausalLM", "Qwen2MoeForCausalLM"])
@pytest.mark.slow
def test_two_ranks_give_the_tokens_of_one(name: str, tiny: Callable[[str], Path]) -> None:
    params = SamplingParams(temperature=0.0, max_tokens=24, ignore_eos=True, detokenize=False)
    given = [{"prompt_token_ids": tokens} for tokens in prompts()]
    results = []
    for ranks in (1, 2):
        settings = {
            "dtype": "float32",
            "skip_tokenizer_init": True,
            "threads": 1,
            "num_blocks": 200,
            "max_model_len": 160,
        }
        with LLM(str(tiny(name)), tensor_parallel_size=ranks, **settings) as llm:
            results.append([list(o.outputs[0].token_ids) for o in llm.generate(given, params, use_tqdm=False)])
    assert results[0] == results[1]
