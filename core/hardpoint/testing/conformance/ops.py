"""Op providers against the references."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from hardpoint.ops import Op, OpCall


def check_body(op: Op[..., Any], body: Callable[..., Any], dtype: torch.dtype, device: torch.device) -> None:
    """Call ``body`` with everything that the op's generator makes, twice over, and hold it against the reference.

    Raises:
        AssertionError: when a result differs by more than the op's tolerance, has another shape or dtype, or an op that
            works in place returned something else than its first argument.
    """
    for seed in (0, 1):
        for call in op.inputs(dtype, device, seed):
            check_call(op, body, call, dtype)


def check_call(op: Op[..., Any], body: Callable[..., Any], call: OpCall, dtype: torch.dtype) -> None:
    """Make one call and hold its result against the reference's; see :func:`check_body`."""
    ours, theirs = call.clone(), call.clone()
    expected = op.reference(*ours.args, **ours.kwargs)
    actual = body(*theirs.args, **theirs.kwargs)
    tolerance = op.tolerance(dtype)
    where = f"{op.name}[{call.label}] in {dtype}"
    torch.testing.assert_close(
        actual,
        expected,
        atol=tolerance.atol,
        rtol=tolerance.rtol,
        equal_nan=True,
        msg=lambda text: f"{where}: {text}",
    )
    if op.in_place:
        assert actual.data_ptr() == theirs.args[0].data_ptr(), f"{where} must work in place"
