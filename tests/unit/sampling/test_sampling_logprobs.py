"""Log-probabilities of sampled tokens and prompts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hardpoint.contract.step import TokenLogprobs
from hardpoint.ops import ranking
from hardpoint.params import SamplingParams
from unit.sampling.bench import sample, sampler, start

VOCAB = 300


def check(found: TokenLogprobs, logits: torch.Tensor, tokens: list[int], k: int) -> None:
    """Compare with log_softmax, in order of value and then id."""
    exact = torch.log_softmax(logits.double(), -1).numpy()
    assert found.token_ids.dtype == np.int32
    assert found.values.dtype == np.float32
    assert found.ranks.dtype == np.int32
    assert found.token_ids.shape == found.values.shape == (len(tokens), 1 + k)
    for row, token in enumerate(tokens):
        order = np.lexsort((np.arange(VOCAB), -logits[row].numpy()))[:k]
        assert found.token_ids[row].tolist() == [token, *order.tolist()]
        np.testing.assert_allclose(found.values[row], exact[row, [token, *order]], atol=2e-5, rtol=1e-5)
        assert found.ranks[row] == 1 + (logits[row] > logits[row, token]).sum()


def test_each_row_gets_what_it_asked_for() -> None:
    target = sampler(VOCAB)
    asked: list[int | None] = [0, None, 5, -1, 200, 20]
    logits = torch.round(torch.randn(6, VOCAB, generator=torch.Generator().manual_seed(1)) * 40) / 10
    for row, count in enumerate(asked):
        target.start(start(row, SamplingParams(logprobs=count, temperature=1.5)))
    order = [4, 0, 5, 1, 3, 2]
    result = sample(target, logits[order], order, [1] * 6)
    found = result.logprobs()
    assert sorted(found) == [at for at, row in enumerate(order) if asked[row] is not None]
    for at, one in found.items():
        count = asked[order[at]]
        assert count is not None
        check(one, logits[order[at]][None], [int(result.tokens[at])], VOCAB if count < 0 else count)


def test_they_are_the_models_own_whatever_is_done_to_the_logits() -> None:
    target = sampler(VOCAB)
    params = SamplingParams(
        temperature=0.1,
        logprobs=3,
        allowed_token_ids=[7, 8],
        logit_bias={7: 50.0},
        presence_penalty=1.0,
        top_k=1,
        bad_words_token_ids=[[8]],
    )
    target.start(start(0, params))
    logits = torch.randn(1, VOCAB, generator=torch.Generator().manual_seed(2))
    result = sample(target, logits, [0], [1])
    assert result.tokens.tolist() == [7]
    check(result.logprobs()[0], logits, [7], 3)


def test_chosen_ids_come_in_their_order_instead_of_the_most_likely() -> None:
    target = sampler(VOCAB)
    lists = [[5, 3, 299], [1, 6], None]
    for row, ids in enumerate(lists):
        target.start(start(row, SamplingParams(temperature=0.0, logprobs=2, logprob_token_ids=ids)))
    logits = torch.randn(3, VOCAB, generator=torch.Generator().manual_seed(3))
    result = sample(target, logits, [0, 1, 2], [1] * 3)
    found, exact = result.logprobs(), torch.log_softmax(logits, -1)
    for row, ids in enumerate(lists[:2]):
        own = int(result.tokens[row])
        assert found[row].token_ids.tolist() == [[own, *ids]]
        assert found[row].values[0].tolist() == pytest.approx(exact[row, [own, *ids]].tolist(), abs=1e-6)
        assert found[row].ranks.tolist() == [1]
    check(found[2], logits[2:], [int(result.tokens[2])], 2)


def test_forbidden_tokens_of_the_model_have_no_probability() -> None:
    target = sampler(VOCAB)
    target.start(start(0, SamplingParams(temperature=0.0, logprobs=3)))
    logits = torch.full((1, VOCAB), -torch.inf)
    logits[0, [4, 9]] = torch.tensor([1.0, 1.0])
    result = sample(target, logits, [0], [1])
    found = result.logprobs()[0]
    assert found.token_ids.tolist() == [[4, 4, 9, 0]]
    assert found.values[0].tolist() == pytest.approx([-np.log(2), -np.log(2), -np.log(2), -np.inf])


@pytest.mark.parametrize("k", [0, 4, -1])
@pytest.mark.parametrize("chunk", [VOCAB, 3 * VOCAB, 2**24])
def test_prompts_are_done_in_parts(k: int, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hardpoint.runner.sampling.sampler.CHUNK", chunk)
    monkeypatch.setattr(ranking, "CHUNK", chunk)
    generator = torch.Generator().manual_seed(4)
    hidden, head = torch.randn(10, 8, generator=generator), torch.randn(8, VOCAB, generator=generator)
    tokens = torch.randint(0, VOCAB, (10,), generator=generator)
    sizes: list[int] = []

    def logits(rows: torch.Tensor) -> torch.Tensor:
        sizes.append(rows.shape[0] * VOCAB)
        return rows @ head

    finish = sampler(VOCAB).prompt_logprobs(logits, hidden, tokens, k)
    assert max(sizes) <= chunk
    check(finish(), hidden @ head, tokens.tolist(), VOCAB if k < 0 else k)
