"""Triton's kernels at both ends of a step in its interpreter. What it takes long to interpret gets few rows; the GPU runs all inputs."""

from __future__ import annotations

import pytest
import torch

from hardpoint.ops.registry import OPS
from hardpoint.testing.conformance.ops import check_body

triton = pytest.importorskip("triton")
if not triton.knobs.runtime.interpret:
    pytest.skip("Triton compiles in this run", allow_module_level=True)

CPU = torch.device("cpu")
WHOLE = ("embed", "best_token", "decode_inputs", "keep_tokens", "gather_logprobs", "apply_penalties")


def bodies():
    from hardpoint_triton import ops

    return ops.OPS


def numbers(seed: int, rows: int) -> dict[str, torch.Tensor]:
    """Return one value per row of every parameter that a draw has."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float) -> torch.Tensor:
        return torch.rand(rows, generator=generator, dtype=torch.float64) * (high - low) + low

    return {
        "uniform": uniform(0.0, 1.0),
        "temperature": uniform(0.3, 1.6).float(),
        "min_p": uniform(0.0, 0.2).float(),
        "top_p": uniform(0.05, 0.99),
        "top_k": (uniform(1.0, 20.0)).long(),
    }


def logits_of(kind: str, rows: int, vocab: int) -> torch.Tensor:
    values = torch.randn(rows, vocab, generator=torch.Generator().manual_seed(3))
    match kind:
        case "flat":
            return values * 0.01
        case "steep":
            return values * 5
        case "tied":
            return torch.round(values)
        case "equal":
            return torch.zeros(rows, vocab)
        case "masked":
            return values.masked_fill(torch.arange(vocab) % 97 != 5, -torch.inf)
    raise AssertionError(kind)


@pytest.mark.parametrize("name", WHOLE)
def test_ops_agree_with_their_references(name: str) -> None:
    check_body(OPS[name], bodies()[name], torch.float32, CPU)


@pytest.mark.parametrize("limits", [(), ("min_p",), ("top_p",), ("min_p", "top_p")], ids="+".join)
@pytest.mark.parametrize("kind", ["flat", "steep", "tied", "equal", "masked"])
def test_draws_from_the_whole_vocabulary(kind: str, limits: tuple[str, ...]) -> None:
    """More tokens than top-p's search holds at once, so that it must narrow before it collects; one row has no top-p."""
    logits, given = logits_of(kind, 3, 8400), numbers(1, 3)
    given["top_p"][1] = 1.0
    args = [given["uniform"], given["temperature"], *(given[n] if n in limits else None for n in ("min_p", "top_p"))]
    expected = OPS["sample_full"](logits, *args)
    assert torch.equal(bodies()["sample_full"](logits, *args), expected)


@pytest.mark.parametrize("limits", [(), ("min_p", "top_p")], ids="+".join)
@pytest.mark.parametrize("kind", ["flat", "steep", "tied", "masked"])
def test_draws_from_the_most_likely_tokens(kind: str, limits: tuple[str, ...]) -> None:
    logits, given = logits_of(kind, 3, 1500), numbers(2, 3)
    args = [given["uniform"], given["temperature"], *(given[n] if n in limits else None for n in ("min_p", "top_p"))]
    expected = OPS["sample_top_k"](logits, *args, given["top_k"], 20)
    assert torch.equal(bodies()["sample_top_k"](logits, *args, given["top_k"], 20), expected)


@pytest.mark.parametrize("k", [1, 7, 30])
def test_the_most_likely_tokens_in_order(k: int) -> None:
    """Ties everywhere, and a row with fewer finite logits than ``k``."""
    logits = logits_of("tied", 3, 1500)
    logits[2, 20:] = -torch.inf
    for actual, expected in zip(bodies()["top_k_tokens"](logits, k), OPS["top_k_tokens"](logits, k), strict=True):
        assert torch.equal(actual, expected)


@pytest.mark.parametrize("k", [0, 5])
def test_log_probabilities_and_ranks(k: int) -> None:
    logits, tokens = logits_of("steep", 2, 5000), torch.tensor([4999, 17])
    ids, values, ranks = bodies()["top_logprobs"](logits, tokens, k)
    wanted_ids, wanted, wanted_ranks = OPS["top_logprobs"](logits, tokens, k)
    assert torch.equal(ids, wanted_ids)
    assert torch.equal(ranks, wanted_ranks)
    torch.testing.assert_close(values, wanted, atol=1e-5, rtol=1e-5)


def test_a_row_that_is_no_number_yields_some_token() -> None:
    logits = torch.randn(4, 9000, generator=torch.Generator().manual_seed(0))
    logits[0, 77], logits[1], logits[2, 5] = torch.nan, -torch.inf, torch.inf
    given = numbers(4, 4)
    tokens, best = bodies()["best_token"](logits)
    assert torch.isfinite(best).tolist() == [False, False, False, True]
    drawn = bodies()["sample_full"](logits, given["uniform"], given["temperature"], None, given["top_p"])
    for found in (tokens, drawn):
        assert ((found >= 0) & (found < 9000)).all()
    expected = OPS["sample_full"](
        logits[3:], *(given[n][3:] for n in ("uniform", "temperature")), None, given["top_p"][3:]
    )
    assert drawn[3] == expected[0]
