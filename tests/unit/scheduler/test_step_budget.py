"""What fits a step under each limit."""

from __future__ import annotations

import numpy as np
import pytest

from hardpoint.contract.errors import ConfigError
from hardpoint.contract.limits import BatchLimits, BatchShape
from hardpoint.scheduler.budget import StepBudget


def budget(*, max_tokens: int = 16, max_requests: int = 4, bound: int = 1000, rows: int = 1000, **limits) -> StepBudget:
    return StepBudget(BatchLimits(max_tokens=max_tokens, max_requests=max_requests, **limits), bound, rows)


def lengths(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def test_tokens_and_rows_bound_a_step():
    step = budget()
    assert step.decodes_that_fit(lengths(*[9] * 10)) == 4
    step.add_decodes(3, 0)
    assert step.prefill_room(0) == 13
    step.add_prefill(13, 13)
    assert step.prefill_room(0) == 0
    assert not step.decode_fits(1)
    step.reset()
    assert step.empty
    assert step.prefill_room(0) == 16


def test_the_configuration_may_be_tighter_than_the_platform():
    step = budget(bound=5, rows=2)
    assert step.prefill_room(0) == 5
    assert step.decodes_that_fit(lengths(*[9] * 10)) == 2
    assert budget(bound=2).takes_turns
    assert not budget().takes_turns


def test_counts_of_prefills_and_decodes():
    step = budget(max_prefills=1, max_decodes=2)
    assert step.takes_turns
    assert step.decodes_that_fit(lengths(1, 1, 1)) == 2
    step.add_prefill(2, 2)
    assert step.prefill_room(0) == 0
    step.add_decodes(2, 0)
    assert not step.decode_fits(5)
    step.remove_decode()
    assert step.decode_fits(5)


def test_an_unmixed_step_holds_one_kind():
    step = budget(mix_prefill_decode=False)
    step.add_decodes(1, 0)
    assert step.prefill_room(0) == 0
    step.reset()
    step.add_prefill(2, 2)
    assert not step.decode_fits(1)
    assert step.prefill_room(0) == 14


def test_a_plan_fits_a_prepared_shape():
    shapes = (BatchShape(tokens=8, requests=2), BatchShape(tokens=4, requests=4, decode=True))
    step = budget(shapes=shapes)
    assert step.max_chunk == 8
    assert step.decodes_that_fit(lengths(*[1] * 9)) == 4
    step.add_decodes(1, 0)
    assert step.prefill_room(0) == 7
    step.add_decodes(1, 0)
    assert step.prefill_room(0) == 0
    step.reset()
    step.add_prefill(5, 5)
    assert step.decodes_that_fit(lengths(1, 1)) == 1


def test_area_bounds_longest_context_times_rows():
    step = budget(token_area=40)
    assert step.takes_turns
    assert step.decodes_that_fit(lengths(10, 10, 10, 10)) == 4
    assert step.decodes_that_fit(lengths(5, 20, 5)) == 2
    assert step.decodes_that_fit(lengths(5, 21)) == 1
    step.add_decodes(1, 15)
    assert step.prefill_room(12) == 8
    step.add_decodes(1, 15)
    assert step.prefill_room(0) == 0


@pytest.mark.parametrize(
    ("remaining", "room", "threshold", "multiple", "size"),
    [
        (10, 16, 0, 1, 10),
        (20, 16, 0, 1, 16),
        (20, 15, 0, 4, 12),
        (14, 15, 0, 4, 14),
        (20, 3, 0, 4, 0),
        (3, 3, 0, 4, 3),
        (20, 16, 5, 1, 5),
        (20, 16, 5, 4, 4),
        (20, 16, 3, 4, 4),
        (20, 0, 0, 1, 0),
    ],
)
def test_chunks(remaining, room, threshold, multiple, size):
    assert budget(chunk_multiple=multiple).chunk(remaining, room, threshold) == size


@pytest.mark.parametrize(
    ("limits", "text"),
    [
        ({"shapes": (BatchShape(tokens=4, requests=4, decode=True),)}, "decode shapes only"),
        ({"chunk_multiple": 32}, "multiple of 32 tokens, and a step at most 16"),
        ({"max_prefills": 0}, "no prefills or no decodes"),
    ],
)
def test_limits_that_allow_nothing_are_refused(limits, text):
    with pytest.raises(ConfigError, match=text):
        budget(**limits)
