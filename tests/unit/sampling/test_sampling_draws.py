"""The draw itself: exact distributions, limits against transformers' own, ties, and numbers at the edges."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers.generation import MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from hardpoint.ops import sampling as ops_sampling
from hardpoint.ops.ranking import best_token, top_k_tokens
from hardpoint.ops.sampling import sample_full, sample_top_k
from unit.sampling.bench import probabilities

GRID = 1009


def draw(logits: torch.Tensor, uniform: torch.Tensor, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0) -> torch.Tensor:
    """Draw from one row of logits once for each number in ``uniform``."""
    n = len(uniform)
    rows = logits.expand(n, -1).contiguous()
    heat = torch.full((n,), temperature)
    least = torch.full((n,), min_p) if min_p else None
    mass = torch.full((n,), top_p, dtype=torch.float64) if top_p < 1 else None
    if top_k:
        return sample_top_k(rows, uniform, heat, least, mass, torch.full((n,), top_k), top_k)
    return sample_full(rows, uniform, heat, least, mass)


def grid(n: int = GRID) -> torch.Tensor:
    return (torch.arange(n, dtype=torch.float64) + 0.5) / n


LIMITS = [
    {},
    {"temperature": 0.3},
    {"temperature": 2.0},
    {"top_k": 1},
    {"top_k": 7},
    {"top_p": 0.5},
    {"top_p": 0.95, "temperature": 1.5},
    {"top_p": 1e-9},
    {"min_p": 0.1},
    {"min_p": 1.0},
    {"top_k": 20, "top_p": 0.8},
    {"top_k": 20, "min_p": 0.05, "top_p": 0.7, "temperature": 1.3},
    {"min_p": 0.02, "top_p": 0.9, "temperature": 0.7},
    {"top_k": 301},
]


@pytest.mark.parametrize("sorted_up_to", [0, 4096])
@pytest.mark.parametrize("limits", LIMITS, ids=str)
def test_evenly_spaced_uniforms_give_the_exact_distribution(
    limits: dict[str, float], sorted_up_to: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ops_sampling, "_SORTED", sorted_up_to)
    logits = torch.randn(301, generator=torch.Generator().manual_seed(3)) * 2.5
    exact = probabilities(logits, **limits)
    counts = np.bincount(draw(logits, grid(), **limits).numpy(), minlength=301)
    # A token owns one interval of the unit line, on which the grid has the expected number of points, give or take one.
    assert np.abs(counts - exact * GRID).max() < 1.01
    assert not counts[exact == 0].any()


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("limits", LIMITS[3:], ids=str)
def test_limits_keep_what_transformers_keeps(limits: dict[str, float], seed: int) -> None:
    limits = dict(limits)
    logits = torch.randn(1, 60, generator=torch.Generator().manual_seed(seed))
    kept = logits / limits.get("temperature", 1.0)
    if min_p := limits.get("min_p"):
        kept = MinPLogitsWarper(min_p)(None, kept)
    if top_k := limits.get("top_k"):
        limits["top_k"] = min(top_k, 60)
        kept = TopKLogitsWarper(top_k)(None, kept)
    if top_p := limits.get("top_p"):
        kept = TopPLogitsWarper(top_p)(None, kept)
    drawn = set(draw(logits[0], grid(10_007), **limits).tolist())
    assert drawn == set(torch.isfinite(kept[0]).nonzero().flatten().tolist())


@pytest.mark.parametrize("vocab", [30, 1301, 9001])
def test_top_p_is_the_same_sorted_and_selected(vocab: int, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(vocab)
    logits = torch.randn(12, vocab, generator=generator) * torch.logspace(-2, 1, 12)[:, None]
    logits[::3] = torch.round(logits[::3])
    mass = torch.rand(12, generator=generator, dtype=torch.float64)
    mass[:3] = torch.tensor([1.0, 1e-12, 1 - 1e-12])
    drawn = []
    for bound in (0, vocab):
        monkeypatch.setattr(ops_sampling, "_SORTED", bound)
        uniforms = torch.rand(8, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        drawn.append([sample_full(logits, uniform, torch.ones(12), None, mass).tolist() for uniform in uniforms])
    assert drawn[0] == drawn[1]


def test_a_long_flat_vocabulary_loses_no_mass() -> None:
    vocab = 151_936
    uniform = grid(211)
    tokens = torch.cat([draw(torch.zeros(vocab), part) for part in uniform.split(50)])
    assert (tokens - (uniform * vocab).long()).abs().max() <= 1


def test_a_long_thin_tail_keeps_its_share() -> None:
    logits = torch.zeros(100_001)
    logits[0] = float(np.log(100_000))
    tokens = draw(logits, torch.tensor([0.25, 0.499999, 0.75, 0.999999], dtype=torch.float64))
    assert tokens[:2].tolist() == [0, 0]
    # The second half of the mass is spread over the tail, whose weights of 1e-5 are rounded down to 2**-40.
    assert tokens[2:].tolist() == pytest.approx([50_000, 100_000], abs=3)


@pytest.mark.parametrize("limits", [{}, {"top_k": 5}, {"top_p": 0.999999}, {"min_p": 1e-6}], ids=str)
def test_the_ends_of_the_unit_interval_fall_on_tokens_that_can_be_drawn(limits: dict[str, float]) -> None:
    logits = torch.full((700,), -torch.inf)
    logits[[3, 300, 650]] = torch.tensor([1.0, 2.0, 0.5])
    edges = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)
    assert set(draw(logits, edges, **limits).tolist()) <= {3, 300, 650}
    by_id = draw(logits, edges).tolist()
    assert by_id == [3, 650]


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30, 3e38])
@pytest.mark.parametrize("temperature", [1.1e-5, 1e-4, 0.5, 2.0, 1e30])
@pytest.mark.parametrize("limits", [{}, {"top_k": 3}, {"top_p": 0.9}], ids=str)
def test_extreme_numbers_still_draw_what_can_be_drawn(
    scale: float, temperature: float, limits: dict[str, float]
) -> None:
    logits = torch.tensor([-1.0, 0.5, 1.0, -torch.inf, 0.25]) * scale
    drawn = draw(logits, grid(101), temperature=temperature, **limits)
    assert 3 not in drawn.tolist()
    spread = 0.5 * scale / temperature
    if spread > 100:
        assert set(drawn.tolist()) == {2}
    elif spread < 1e-6 and not limits:
        assert np.bincount(drawn.numpy(), minlength=5).tolist() == pytest.approx([25, 25, 25, 0, 25], abs=1.01)


def test_a_number_on_a_border_belongs_to_the_token_above_it() -> None:
    quarters = torch.tensor([0.0, 0.25, 0.5, 0.75, 0.75 - 2**-50], dtype=torch.float64)
    assert draw(torch.zeros(1024), quarters).tolist() == [0, 256, 512, 768, 767]
    assert draw(torch.zeros(1024), quarters, top_k=4).tolist() == [0, 1, 2, 3, 2]


@pytest.mark.parametrize("sorted_up_to", [0, 4096])
def test_top_p_stops_where_it_is_reached_exactly(sorted_up_to: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops_sampling, "_SORTED", sorted_up_to)
    halves = torch.tensor([0.25, 1.0, 0.5, 0.25]).log()
    assert halves.exp().tolist() == [0.25, 1.0, 0.5, 0.25]
    for top_p, kept in ((0.5, {1}), (0.5 + 1e-9, {1, 2}), (0.75, {1, 2}), (0.75 + 1e-9, {0, 1, 2, 3})):
        assert set(draw(halves, grid(), top_p=top_p).tolist()) == kept
        assert set(draw(halves, grid(), top_p=top_p, top_k=4).tolist()) == kept


def test_equal_tokens_are_ordered_by_id_for_top_k_and_kept_together_for_top_p() -> None:
    logits = torch.tensor([0.0, 1.0, 1.0, 1.0, 1.0, 0.0])
    assert set(draw(logits, grid(), top_k=2).tolist()) == {1, 2}
    assert set(draw(logits, grid(), top_p=0.3).tolist()) == {1, 2, 3, 4}
    assert set(draw(logits, grid(), top_k=3, top_p=0.3).tolist()) == {1, 2, 3}


@pytest.mark.parametrize(
    "row", [[float("nan"), 1.0, 2.0], [float("inf"), 1.0], [float("-inf")] * 4, [-float("nan"), 3.0]]
)
def test_rows_that_cannot_be_sampled_leave_their_neighbours_alone(row: list[float]) -> None:
    good = torch.randn(3, 600, generator=torch.Generator().manual_seed(0))
    rows = good.clone()
    rows[1, :] = -1.0
    rows[1, 100 : 100 + len(row)] = torch.tensor(row)
    if row[0] == float("-inf"):
        rows[1] = -torch.inf
    uniform, heat = torch.full((3,), 0.6, dtype=torch.float64), torch.full((3,), 0.9)
    mass, k = torch.full((3,), 0.8, dtype=torch.float64), torch.full((3,), 9)
    for run in (
        lambda x: sample_full(x, uniform, heat, None, None),
        lambda x: sample_full(x, uniform, heat, torch.full((3,), 0.01), mass),
        lambda x: sample_top_k(x, uniform, heat, None, mass, k, 9),
    ):
        tokens = run(rows)
        assert tokens[[0, 2]].tolist() == run(good)[[0, 2]].tolist()
        assert 0 <= tokens[1] < 600
    assert not torch.isfinite(best_token(rows)[1][1])


@pytest.mark.parametrize("vocab", [1, 2, 511, 512, 513, 1301])
def test_the_best_token_is_the_first_of_equals(vocab: int) -> None:
    logits = torch.randint(0, 3, (40, vocab), generator=torch.Generator().manual_seed(vocab)).float()
    tokens, best = best_token(logits)
    assert tokens.tolist() == logits.numpy().argmax(-1).tolist()
    assert torch.equal(best, logits.amax(-1))


@pytest.mark.parametrize("vocab", [63, 64, 65, 1301, 4099])
@pytest.mark.parametrize("k", [0, 1, 2, 9, 60])
def test_the_k_best_tokens_are_in_order_of_value_then_id(vocab: int, k: int) -> None:
    generator = torch.Generator().manual_seed(k)
    for logits in (
        torch.randn(5, vocab, generator=generator),
        torch.randint(-2, 3, (5, vocab), generator=generator).float()
        * torch.tensor([0.0, -1.0, 1.0, 1e30, 1e-40])[:, None],
    ):
        values, ids = top_k_tokens(logits, k)
        order = np.lexsort((np.broadcast_to(np.arange(vocab), logits.shape), -logits.numpy()), axis=-1)[:, :k]
        assert ids.tolist() == order.tolist()
        assert torch.equal(values, logits.gather(-1, ids))
