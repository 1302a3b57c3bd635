"""Sampling on the device: the reference's distribution, the same draw for the same seed, greedy as the argmax."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest
import torch

from hardpoint.contract.device import Device
from hardpoint.contract.ops import OpProvider
from hardpoint.contract.platform import Platform
from hardpoint.contract.step import RowStart
from hardpoint.ops import OpTable
from hardpoint.params import SamplingParams
from hardpoint.plugins import Catalogue
from hardpoint.runner.sampling import Sampler

_VOCAB = 64
_DRAWS = 4096
#: Upper quantile 1e-6 of chi-square by degrees of freedom would fail one platform in a million; this is far above it.
_SIGMAS = 8.0


@pytest.fixture(scope="module")
def ops(platform: Platform, catalogue: Catalogue, device: Device) -> OpTable:
    """The platform's op table."""
    made = [cast("OpProvider", catalogue.create("ops", n)) for n in platform.op_providers() if n != "reference"]
    return OpTable(made, arch=device.info.arch, dtype="float32")


def _logits(rows: int, device: Device) -> torch.Tensor:
    base = torch.from_numpy(np.random.default_rng(3).normal(size=_VOCAB).astype(np.float32)) * 2
    return base.to(device.torch_device).repeat(rows, 1)


def _sample(device: Device, ops: OpTable, params: SamplingParams, rows: int, seeds: range | None) -> npt.NDArray[Any]:
    sampler = Sampler(rows, _VOCAB, device, ops)
    for row in range(rows):
        own = params if seeds is None else params.replace(seed=seeds[row])
        start = RowStart(
            row=row,
            handle=row + 1,
            token_ids=np.array([1], np.int32),
            num_prompt=1,
            num_computed=0,
            params=own,
            blocks=(),
        )
        sampler.start(start)
    at = np.arange(rows, dtype=np.int32)
    found = sampler.sample(_logits(rows, device), at, np.ones(rows, np.int32))
    return device.to_host(found.tokens).result()


def test_greedy_is_the_argmax(device: Device, ops: OpTable) -> None:
    tokens = _sample(device, ops, SamplingParams(temperature=0.0), 16, None)
    assert set(tokens.tolist()) == {int(_logits(1, device).argmax())}


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(temperature=1.0),
        SamplingParams(temperature=0.7, top_k=9),
        SamplingParams(temperature=1.3, top_p=0.8),
        SamplingParams(temperature=1.0, min_p=0.05),
        SamplingParams(temperature=0.9, top_k=30, top_p=0.9, min_p=0.01),
    ],
    ids=["plain", "top-k", "top-p", "min-p", "all"],
)
def test_draws_follow_the_distribution(device: Device, ops: OpTable, params: SamplingParams) -> None:
    tokens = _sample(device, ops, params, _DRAWS, range(_DRAWS))
    expected = _distribution(_logits(1, device)[0].double().cpu().numpy(), params)
    counts = np.bincount(tokens, minlength=_VOCAB)
    assert counts[expected == 0].sum() == 0, "a token outside the limits was drawn"
    live = expected > 0
    statistic = (((counts - _DRAWS * expected) ** 2)[live] / (_DRAWS * expected[live])).sum()
    freedom = live.sum() - 1
    assert statistic < freedom + _SIGMAS * (2 * freedom) ** 0.5 + _SIGMAS


def test_a_seed_decides_the_draw(device: Device, ops: OpTable) -> None:
    params = SamplingParams(temperature=1.0)
    first = _sample(device, ops, params, 64, range(64))
    assert _sample(device, ops, params, 64, range(64)).tolist() == first.tolist()
    assert _sample(device, ops, params, 64, range(100, 164)).tolist() != first.tolist()


def _distribution(logits: npt.NDArray[np.float64], params: SamplingParams) -> npt.NDArray[np.float64]:
    probs = np.exp((logits - logits.max()) / params.temperature)
    probs /= probs.sum()
    if params.min_p:
        probs = np.where(probs >= params.min_p * probs.max(), probs, 0)
    if params.top_k > 0:
        probs = np.where(probs >= np.sort(probs)[-params.top_k], probs, 0)
    probs /= probs.sum()
    if params.top_p < 1:
        order = np.argsort(-probs, kind="stable")
        before = np.cumsum(probs[order]) - probs[order]
        probs[order[before >= params.top_p]] = 0
    return np.asarray(probs / probs.sum())
