"""Prepared steps: the same results as the plain step, at the same addresses, whatever was prepared beside them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from hardpoint.contract.device import Device, GraphSupport, StepPreparer
from hardpoint.contract.limits import BatchLimits, BatchShape

_LIMITS = BatchLimits(max_tokens=256, max_requests=16)


@pytest.fixture
def preparer(device: Device) -> StepPreparer:
    """The device's; the group is refused where it has none."""
    found = device.preparer()
    if found is None or device.caps.graphs == GraphSupport.NONE:
        pytest.skip("refused: the device runs every step as it is")
    return found


def _step(device: Device, rows: int) -> tuple[torch.Tensor, Callable[[], torch.Tensor]]:
    inputs = torch.zeros(rows, 64, device=device.torch_device)
    weight = torch.eye(64, device=device.torch_device) * 2
    return inputs, lambda: torch.relu(inputs @ weight).sum(-1)


def test_shapes_hold_every_number_of_rows(preparer: StepPreparer) -> None:
    shapes = preparer.shapes(_LIMITS)
    assert max(shape.requests for shape in shapes) == _LIMITS.max_requests
    assert all(shape.decode and shape.tokens == shape.requests for shape in shapes)
    assert set(preparer.first(_LIMITS)) <= set(shapes)


def test_a_prepared_step_follows_its_inputs(device: Device, preparer: StepPreparer) -> None:
    inputs, step = _step(device, 4)
    prepared = preparer.prepare(step, BatchShape(tokens=4, requests=4, decode=True))
    for value in (1.0, -1.0, 3.0):
        inputs.fill_(value)
        assert torch.equal(prepared().cpu(), step().cpu())


def test_results_stay_at_their_addresses(device: Device, preparer: StepPreparer) -> None:
    inputs, step = _step(device, 2)
    prepared = preparer.prepare(step, BatchShape(tokens=2, requests=2, decode=True))
    first = prepared().data_ptr()
    inputs.fill_(5.0)
    assert prepared().data_ptr() == first


def test_prepared_steps_do_not_disturb_each_other(device: Device, preparer: StepPreparer) -> None:
    steps = {rows: _step(device, rows) for rows in (1, 2, 4, 8)}
    prepared = {
        rows: preparer.prepare(step, BatchShape(tokens=rows, requests=rows, decode=True))
        for rows, (_, step) in steps.items()
    }
    for rows in (8, 1, 4, 2, 8):
        inputs, step = steps[rows]
        inputs.fill_(float(rows))
        expected = step().cpu()
        assert torch.equal(prepared[rows]().cpu(), expected)


def test_a_result_holds_for_work_queued_before_the_next_step(device: Device, preparer: StepPreparer) -> None:
    steps = {rows: _step(device, rows) for rows in (8, 1)}
    prepared = {
        rows: preparer.prepare(step, BatchShape(tokens=rows, requests=rows, decode=True))
        for rows, (_, step) in steps.items()
    }
    steps[8][0].fill_(3.0)
    steps[1][0].fill_(7.0)
    expected = steps[8][1]().cpu()
    kept = prepared[8]() + 0
    prepared[1]()
    assert torch.equal(kept.cpu(), expected)


def test_a_step_that_runs_out_of_memory_leaves_everything_as_it_was(device: Device, preparer: StepPreparer) -> None:
    said = "out of memory, as asked"
    known = [error for error in (torch.OutOfMemoryError(said), MemoryError(said)) if device.is_oom(error)]
    if not known:
        pytest.skip("refused: the device has words of its own for this")
    error = known[0]
    inputs, step = _step(device, 2)
    prepared = preparer.prepare(step, BatchShape(tokens=2, requests=2, decode=True))

    def fails() -> torch.Tensor:
        step()
        raise error

    with pytest.raises(type(error)):
        preparer.prepare(fails, BatchShape(tokens=2, requests=2, decode=True))
    inputs.fill_(4.0)
    assert torch.equal(prepared().cpu(), step().cpu())
    again = preparer.prepare(step, BatchShape(tokens=2, requests=2, decode=True))
    assert torch.equal(again().cpu(), step().cpu())
    assert device.health() is None


def test_reset_forgets_what_was_prepared(device: Device, preparer: StepPreparer) -> None:
    inputs, step = _step(device, 2)
    preparer.prepare(step, BatchShape(tokens=2, requests=2, decode=True))
    preparer.reset()
    again = preparer.prepare(step, BatchShape(tokens=2, requests=2, decode=True))
    inputs.fill_(2.0)
    assert torch.equal(again().cpu(), step().cpu())
