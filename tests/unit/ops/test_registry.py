"""Ops as objects, and how they are bound to providers."""

from __future__ import annotations

import inspect

import pytest
import torch

from hardpoint.contract.errors import ConfigError
from hardpoint.contract.ops import OpProvider
from hardpoint.ops import OPS, OpTable
from hardpoint.ops.registry import Tolerance, op
from hardpoint.testing.conformance.ops import check_body

CPU = torch.device("cpu")
ALL = [pytest.param(made, dtype, id=f"{name}-{dtype}") for name, made in OPS.items() for dtype in made.dtypes]


class Provider:
    def __init__(self, name: str, ops: dict, refuses: dict | None = None) -> None:
        self.name = name
        self.ops = ops
        self._refuses = refuses or {}

    def reject(self, op: str, arch: str, dtype: str) -> list[str]:
        return self._refuses.get((op, arch, dtype), [])


def body(*args, **kwargs):
    return "body"


def other(*args, **kwargs):
    return "other"


@pytest.mark.parametrize(("made", "dtype"), ALL)
def test_inputs_repeat_with_their_seed_and_reach_the_reference(made, dtype) -> None:
    first, second, third = (list(made.inputs(dtype, CPU, seed)) for seed in (3, 3, 4))
    assert len(first) == len({call.label for call in first}) > 0
    for one, two in zip(first, second, strict=True):
        for a, b in zip(one.args, two.args, strict=True):
            if isinstance(a, torch.Tensor):
                torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
            else:
                assert a == b
    different = [
        not torch.equal(a, b)
        for one, two in zip(first, third, strict=True)
        for a, b in zip(one.args, two.args, strict=True)
        if isinstance(a, torch.Tensor) and a.numel()
    ]
    assert any(different)
    check_body(made, made.reference, dtype, CPU)


@pytest.mark.parametrize(("made", "dtype"), ALL)
def test_conformance_finds_a_wrong_body(made, dtype) -> None:
    def wrong(*args, **kwargs):
        result = made.reference(*args, **kwargs)
        first = result[0] if isinstance(result, tuple) else result
        first += 1 if first.dtype != torch.bool else True
        return result

    with pytest.raises(AssertionError, match=made.name):
        check_body(made, wrong, dtype, CPU)


def test_conformance_finds_a_copy_where_the_op_works_in_place() -> None:
    made = next(made for made in OPS.values() if made.in_place)
    with pytest.raises(AssertionError, match="in place"):
        check_body(made, lambda first, *rest: made.reference(first.clone(), *rest), made.dtypes[0], CPU)


def test_clone_keeps_strides_and_shares_nothing() -> None:
    call = next(c for c in OPS["silu_mul"].inputs(torch.float32, CPU, 0) if c.label == "strided")
    copy = call.clone()
    assert copy.args[0].stride() == call.args[0].stride()
    copy.args[0].zero_()
    assert call.args[0].abs().sum() > 0


def test_an_op_is_registered_once() -> None:
    with pytest.raises(ValueError, match="two ops named 'rms_norm'"):

        @op(lambda dtype, device, seed: [])
        def rms_norm(x):
            return x


def test_tolerance_can_be_the_ops_own() -> None:
    assert OPS["moe"].tolerance(torch.bfloat16) == Tolerance(4e-2, 2e-2)
    assert OPS["moe"].tolerance(torch.float32) == OPS["rms_norm"].tolerance(torch.float32)


def test_table_has_every_op_and_types_for_it() -> None:
    table = OpTable()
    for name, made in OPS.items():
        assert getattr(table, name) is made.reference
    assert [choice["op"] for choice in table.explain()] == list(OPS)
    block = inspect.getsource(OpTable).split("if TYPE_CHECKING:")[1].split("def __init__")[0]
    typed = {line.split(" = ")[0].strip() for line in block.splitlines() if " = " in line}
    assert typed == set(OPS)


def test_the_first_provider_that_does_not_refuse_wins() -> None:
    first = Provider("a", {"rms_norm": body}, {("rms_norm", "z9", "float16"): ["needs z10", "needs luck"]})
    second = Provider("b", {"rms_norm": other, "silu_mul": other})
    assert isinstance(first, OpProvider)
    assert OpTable([first, second], arch="z10", dtype="float16").rms_norm is body
    table = OpTable([first, second], arch="z9", dtype="float16")
    assert table.rms_norm is other
    assert table.silu_mul is other
    assert table.embed is OPS["embed"].reference
    choices = {choice["op"]: choice for choice in table.explain()}
    assert choices["rms_norm"]["provider"] == "b"
    assert "a: needs z10, needs luck" in choices["rms_norm"]["reason"]
    assert choices["embed"]["provider"] == "reference"


def test_the_user_overrides_the_order() -> None:
    providers = [Provider("a", {"rms_norm": body}), Provider("b", {"rms_norm": other})]
    assert OpTable(providers, {"rms_norm": "b"}).rms_norm is other
    assert OpTable(providers, {"rms_norm": "reference"}).rms_norm is OPS["rms_norm"].reference


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"rmsnorm": "a"}, ["'rmsnorm'", "did you mean 'rms_norm'"]),
        ({"rms_norm": "zz"}, ["'zz'", "choose one of reference, a"]),
        ({"embed": "a"}, ["'embed'", "no such op", "choose one of reference"]),
        ({"silu_mul": "a"}, ["'silu_mul'", "needs more"]),
    ],
)
def test_impossible_overrides_say_why(overrides, words) -> None:
    provider = Provider("a", {"rms_norm": body, "silu_mul": body}, {("silu_mul", "", "float32"): ["needs more"]})
    with pytest.raises(ConfigError) as caught:
        OpTable([provider], overrides)
    for word in words:
        assert word in str(caught.value)
