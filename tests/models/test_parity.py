"""Logits equal those of transformers, however a prompt is cut and whoever shares the batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from paged_harness import Session, load
from transformers import AutoModelForCausalLM

from hardpoint.contract.errors import UnsupportedModelError
from hardpoint.testing.tiny_models import ARCHITECTURES, FALLBACK_ARCHITECTURES, OTHERS, ROPE_VARIANTS, VOCAB, make_tiny

TOLERANCE = 1e-4
CASES = [*ARCHITECTURES, *ROPE_VARIANTS]


def prompt(length: int, seed: int = 1) -> list[int]:
    return torch.randint(3, VOCAB, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


@torch.no_grad()
def expected(model: Any, tokens: list[int]) -> torch.Tensor:
    return model(torch.tensor([tokens])).logits[0].float()


def assert_close(got: torch.Tensor, want: torch.Tensor) -> None:
    assert got.dtype == torch.float32
    assert got.shape == want.shape
    assert float((got - want).abs().max()) <= TOLERANCE
    # A test that compares flat logits proves nothing.
    assert float(want.std()) > 0.1


@pytest.mark.parametrize("name", CASES)
def test_prompt_run_whole(name: str, tiny: Callable[[str], Path], reference: Callable[[Path], Any]) -> None:
    tokens = prompt(48 if name == "dynamic" else 90)
    assert_close(Session(load(tiny(name))).step({0: tokens}), expected(reference(tiny(name)), tokens))


@pytest.mark.parametrize("name", CASES)
def test_prompt_in_chunks_beside_others(
    name: str, tiny: Callable[[str], Path], reference: Callable[[Path], Any]
) -> None:
    """Three sequences advance by uneven chunks, one token at the end, in steps that mix them."""
    longest = 60 if name == "dynamic" else 90
    tokens = {0: prompt(longest, 1), 1: prompt(longest - 29, 2), 2: prompt(17, 3)}
    session = Session(load(tiny(name)))
    got: dict[int, list[torch.Tensor]] = {row: [] for row in tokens}
    done = dict.fromkeys(tokens, 0)
    sizes = [1, 7, 8, 20, 1, 13, 1, 1, 30, 5]
    for turn in range(200):
        batch = {}
        for row, ids in tokens.items():
            size = sizes[(turn + row) % len(sizes)]
            if done[row] < len(ids) and (turn + row) % 4:
                batch[row] = ids[done[row] : done[row] + size]
        if not batch:
            continue
        logits = session.step(batch)
        first = 0
        for row, chunk in batch.items():
            got[row].append(logits[first : first + len(chunk)])
            first += len(chunk)
            done[row] += len(chunk)
        if all(done[row] == len(ids) for row, ids in tokens.items()):
            break
    model = reference(tiny(name))
    if name in ("longrope", "longrope-partial"):
        # transformers chooses the short factors for short prompts; ours follow max_model_len for every prompt.
        del tokens[1], tokens[2]
    for row, ids in tokens.items():
        assert_close(torch.cat(got[row]), expected(model, ids))


@pytest.mark.parametrize("name", CASES)
def test_prompt_token_by_token(name: str, tiny: Callable[[str], Path], reference: Callable[[Path], Any]) -> None:
    tokens = prompt(40)
    session = Session(load(tiny(name), max_model_len=60 if name.startswith("longrope") else None))
    got = torch.cat([session.step({0: [token]}) for token in tokens])
    assert_close(got, expected(reference(tiny(name)), tokens))


def test_dynamic_rope_beyond_the_original_length(tiny: Callable[[str], Path], reference: Callable[[Path], Any]) -> None:
    """A token's angles depend on its own position: as transformers decodes token by token, in every cut."""
    tokens, model = prompt(120), reference(tiny("dynamic"))
    loaded = load(tiny("dynamic"), max_model_len=128)
    with torch.no_grad():
        cache, steps = None, []
        for token in tokens:
            output = model(torch.tensor([[token]]), past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            steps.append(output.logits[0])
    want = torch.cat(steps)
    assert_close(Session(loaded).step({0: tokens}), want)
    session = Session(loaded)
    assert_close(torch.cat([session.step({0: tokens[:70]}), session.step({0: tokens[70:]})]), want)


def test_longrope_follows_the_longest_length_served(
    tiny: Callable[[str], Path], reference: Callable[[Path], Any]
) -> None:
    tokens = prompt(50)
    short = Session(load(tiny("longrope"), max_model_len=64)).step({0: tokens})
    long = Session(load(tiny("longrope"), max_model_len=65)).step({0: tokens})
    assert_close(short, expected(reference(tiny("longrope")), tokens))
    assert float((short - long).abs().max()) > 0.01


def test_windows_are_really_windows(tiny: Callable[[str], Path], tmp_path: Path) -> None:
    """What lies outside every layer's window cannot change the answer; what lies inside does."""
    folder = make_tiny("MistralForCausalLM", tmp_path, num_hidden_layers=1, sliding_window=8)
    loaded = load(folder)
    assert loaded.attention_layers[0].kv_spec.window == 8
    tokens = prompt(30)
    base = Session(loaded).step({0: tokens})[-1]
    outside = Session(loaded).step({0: [*tokens[:22][::-1], *tokens[22:]]})[-1]
    inside = Session(loaded).step({0: [*tokens[:22], tokens[22] + 1, *tokens[23:]]})[-1]
    assert torch.equal(base, outside)
    assert not torch.allclose(base, inside, atol=1e-3)


def test_a_window_that_nothing_outgrows_is_full_attention(tiny: Callable[[str], Path]) -> None:
    assert load(tiny("MistralForCausalLM"), max_model_len=24).attention_layers[0].kv_spec.window is None
    assert load(tiny("MistralForCausalLM"), max_model_len=25).attention_layers[0].kv_spec.window == 24


@pytest.mark.parametrize(
    "name", ["LlamaForCausalLM", "Gemma3ForCausalLM", "GptOssForCausalLM", "Olmo2ForCausalLM", "Qwen3MoeForCausalLM"]
)
def test_bfloat16_is_as_near_to_float32_as_transformers_is(
    name: str, tiny: Callable[[str], Path], reference: Callable[[Path], Any]
) -> None:
    tokens = prompt(60)
    exact = expected(reference(tiny(name)), tokens)
    model = AutoModelForCausalLM.from_pretrained(tiny(name), attn_implementation="eager", dtype=torch.bfloat16)
    theirs = expected(model.eval(), tokens)
    ours = Session(load(tiny(name), dtype="bfloat16")).step({0: tokens})
    assert ours.dtype == torch.float32
    # The rest is for a router's choice that falls differently for one token.
    assert float((ours - exact).abs().mean()) < 1.5 * float((theirs - exact).abs().mean()) + 0.01


@pytest.mark.parametrize("name", ["LlamaForCausalLM", "Qwen3ForCausalLM", "Cohere2ForCausalLM"])
def test_the_fallback_and_native_code_agree(name: str, tiny: Callable[[str], Path]) -> None:
    tokens = prompt(70)
    through = load(tiny(name), model_impl="transformers")
    assert through.description["implementation"] == "transformers"
    want = Session(load(tiny(name))).step({0: tokens})
    assert_close(Session(through).step({0: tokens}), want)


@pytest.mark.parametrize("name", FALLBACK_ARCHITECTURES)
def test_architectures_without_native_code_take_the_fallback(name: str, tiny: Callable[[str], Path]) -> None:
    assert load(tiny(name)).description["implementation"] == "transformers"
    with pytest.raises(UnsupportedModelError, match=r"natively.*LlamaForCausalLM.*--model-impl auto"):
        load(tiny(name), model_impl="native")


def test_fallback_reads_windows_and_scales_from_the_model(tiny: Callable[[str], Path]) -> None:
    layers = load(tiny("Cohere2ForCausalLM")).attention_layers
    assert [layer.kv_spec.window for layer in layers] == [16, 16, None]
    assert {layer.config.scale for layer in layers} == {0.25}


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_the_fallback_over_many_families(
    name: str, tiny: Callable[[str], Path], reference: Callable[[Path], Any]
) -> None:
    tokens = prompt(70)
    session = Session(load(tiny(name)))
    got = [
        session.step({0: tokens[:41], 1: tokens[:9]})[:41],
        session.step({0: tokens[41:42]}),
        session.step({0: tokens[42:]}),
    ]
    assert_close(torch.cat(got), expected(reference(tiny(name)), tokens))
