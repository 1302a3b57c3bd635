"""The scheduler under the platform's own limits: every plan obeys them, every request ends, every block comes back."""

from __future__ import annotations

import numpy as np
import pytest

from hardpoint.config import EngineConfig
from hardpoint.contract.limits import BatchLimits
from hardpoint.contract.platform import Platform
from hardpoint.params import SamplingParams
from hardpoint.testing.conformance.shapes import SHAPE
from hardpoint.testing.scheduling import Driver, Setup

_LENGTH = 256


@pytest.fixture(scope="module")
def limits(platform: Platform) -> BatchLimits:
    """The platform's limits for a small model and a batch that a test can fill."""
    config = EngineConfig.of(platform=platform.name, max_num_seqs=16, max_num_batched_tokens=256, max_model_len=_LENGTH)
    return platform.limits(SHAPE, config)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("room", [8, 2], ids=["roomy", "tight"])
def test_plans_obey_the_limits_and_nothing_is_lost(limits: BatchLimits, seed: int, room: int) -> None:
    rng = np.random.default_rng(seed)
    setup = Setup(
        block_size=16,
        num_blocks=room * (_LENGTH // 16 + 1) + limits.max_requests,
        limits=limits,
        max_model_len=_LENGTH,
        depth=1 + seed % 2,
        multi_step=limits.sampled_per_step > 1,
    )
    driver = Driver(setup)
    for _ in range(40):
        prompt = rng.integers(1, 24, size=int(rng.integers(1, 180))).tolist()
        driver.add(prompt, SamplingParams(max_tokens=int(rng.integers(1, 40)), temperature=0.0, ignore_eos=True))
        for _ in range(int(rng.integers(0, 4))):
            driver.advance()
        if rng.random() < 0.1:
            driver.scheduler.abort([int(rng.choice(list(driver.told)))])
    driver.run()
    driver.verify()
    assert driver.scheduler.stats().blocks_used == 0
