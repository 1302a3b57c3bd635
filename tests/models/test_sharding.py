"""A model split over ranks gives the answers of the whole one, on every rank."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from paged_harness import Session, load
from threaded_ranks import ThreadRank, on_ranks

from hardpoint.contract.errors import ConfigError
from hardpoint.testing.tiny_models import ARCHITECTURES, FALLBACK_ARCHITECTURES, VOCAB, make_tiny

NATIVE = [name for name in ARCHITECTURES if name not in FALLBACK_ARCHITECTURES]


def tokens_of(length: int) -> list[int]:
    return torch.randint(3, VOCAB, (length,), generator=torch.Generator().manual_seed(5)).tolist()


def logits(folder: Path, comm: ThreadRank | None = None, **settings: object) -> torch.Tensor:
    session = Session(load(folder, comm, **settings))
    tokens = tokens_of(50)
    return torch.cat([session.step({0: tokens[:33], 1: tokens[10:20]}), session.step({0: tokens[33:]})])


# Four ranks share two key/value heads.
@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("name", NATIVE)
def test_ranks_agree_with_one(name: str, size: int, tiny: Callable[[str], Path]) -> None:
    want = logits(tiny(name))
    for got in on_ranks(size, lambda comm: logits(tiny(name), comm)):
        assert got.shape == want.shape
        assert float((got - want).abs().max()) < 1e-4


def test_biases_are_added_once(tmp_path: Path) -> None:
    folder = make_tiny("LlamaForCausalLM", tmp_path, attention_bias=True, mlp_bias=True)
    want = logits(folder)
    for got in on_ranks(2, lambda comm: logits(folder, comm)):
        assert float((got - want).abs().max()) < 1e-4


@pytest.mark.parametrize("tied", [True, False])
def test_a_vocabulary_that_ranks_do_not_divide(tmp_path: Path, tied: bool) -> None:
    folder = make_tiny("Qwen3ForCausalLM", tmp_path, vocab_size=289, tie_word_embeddings=tied)
    want = logits(folder)
    assert want.shape[1] == 289
    for got in on_ranks(4, lambda comm: logits(folder, comm)):
        assert got.shape == want.shape
        assert float((got - want).abs().max()) < 1e-4


def test_random_weights_do_not_depend_on_the_number_of_ranks(tiny: Callable[[str], Path]) -> None:
    for name in ("Qwen3MoeForCausalLM", "GptOssForCausalLM", "Phi3ForCausalLM"):
        folder = tiny(name)
        want = logits(folder, load_format="dummy", seed=3)
        assert torch.isfinite(want).all()
        assert float((logits(folder, load_format="dummy", seed=4) - want).abs().max()) > 1e-3
        for got in on_ranks(2, lambda comm, folder=folder: logits(folder, comm, load_format="dummy", seed=3)):
            assert float((got - want).abs().max()) < 1e-4


def test_a_rank_holds_its_share_only(tiny: Callable[[str], Path]) -> None:
    whole = load(tiny("LlamaForCausalLM")).weight_bytes
    parts = on_ranks(2, lambda comm: load(tiny("LlamaForCausalLM"), comm).weight_bytes)
    assert all(0.4 * whole < part < 0.65 * whole for part in parts)


def test_ranks_that_do_not_divide_the_heads_are_refused(tiny: Callable[[str], Path]) -> None:
    with pytest.raises(ConfigError, match=r"tensor_parallel_size is 3.*\(4\).*divisor"):
        on_ranks(3, lambda comm: load(tiny("LlamaForCausalLM"), comm))


def test_the_fallback_refuses_ranks(tiny: Callable[[str], Path]) -> None:
    with pytest.raises(ConfigError, match=r"tensor_parallel_size is 2.*fallback.*Use 1"):
        on_ranks(2, lambda comm: load(tiny("GPT2LMHeadModel"), comm))
