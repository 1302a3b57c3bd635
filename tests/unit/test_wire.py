"""What crosses a process border comes back as it went."""

from __future__ import annotations

import hypothesis.extra.numpy as hnp
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardpoint.config import EngineConfig
from hardpoint.contract.step import RowStart, StepPlan, StepResult, TokenLogprobs
from hardpoint.engine.messages import Abort, EngineRequest, ToEngine
from hardpoint.params import SamplingParams
from hardpoint.wire import Decoder, encode

ARRAYS = hnp.arrays(
    dtype=st.sampled_from([np.int32, np.int64, np.float32, np.bool_]),
    shape=hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5),
)


class Box(msgspec.Struct):
    """Holds an array."""

    array: np.ndarray


@given(ARRAYS)
def test_arrays_come_back_equal(array: np.ndarray) -> None:
    """Shape, type and bytes survive, also for empty and zero-dimensional arrays."""
    back = Decoder[Box](Box).decode(encode(Box(array))).array
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert back.tobytes() == array.tobytes()


def test_a_plan_comes_back_equal() -> None:
    """Nested data classes with arrays, structs and tuples survive."""
    start = RowStart(
        row=1,
        handle=7,
        token_ids=np.arange(5, dtype=np.int32),
        num_prompt=4,
        num_computed=2,
        blocks=(np.array([3, 4], np.int32),),
        params=SamplingParams(logit_bias={3: 2.0}, stop=["x"], seed=-5),
        eos_token_ids=(2,),
    )
    plan = StepPlan(
        step=3,
        rows=np.array([1], np.int32),
        num_tokens=np.array([3], np.int32),
        num_computed=np.array([2], np.int32),
        samples=np.array([True]),
        num_decodes=0,
        starts=(start,),
    )
    back = Decoder[StepPlan](StepPlan).decode(encode(plan))
    assert back.starts[0].params == start.params
    assert back.starts[0].blocks[0].tolist() == [3, 4]
    assert back.samples.tolist() == [True]
    assert back.copies.shape == (0, 2)


def test_a_result_comes_back_equal() -> None:
    """Log-probabilities keyed by position survive."""
    logprobs = TokenLogprobs(
        token_ids=np.ones((1, 3), np.int32), values=np.full((1, 3), -1.5, np.float32), ranks=np.ones(1, np.int32)
    )
    result = StepResult(
        step=1,
        tokens=np.ones((2, 1), np.int32),
        counts=np.ones(2, np.int32),
        logprobs={1: logprobs},
        failures={0: "no"},
    )
    back = Decoder[StepResult](StepResult).decode(encode(result))
    assert back.logprobs[1].values.tolist() == [[-1.5, -1.5, -1.5]]
    assert back.failures == {0: "no"}


def test_messages_are_told_apart() -> None:
    """A union of messages decodes to the right one."""
    decoder: Decoder[ToEngine] = Decoder(ToEngine)
    request = EngineRequest(request_id="r", handles=(1,), token_ids=np.ones(2, np.int32), params=SamplingParams())
    assert isinstance(decoder.decode(encode(request)), EngineRequest)
    assert decoder.decode(encode(Abort([4]))) == Abort([4])


def test_a_configuration_crosses() -> None:
    """A child gets exactly the parent's configuration."""
    config = EngineConfig.of(model="m", max_model_len="2k", hf_overrides={"a": [1, {"b": None}]}, allow_plugins="x,y")
    assert Decoder[EngineConfig](EngineConfig).decode(encode(config)) == config


@pytest.mark.parametrize(
    "data",
    [b"", b"\xc1", encode({"x": 1}), msgspec.msgpack.encode([msgspec.msgpack.Ext(9, b"")])],
    ids=["empty", "invalid", "another type", "unknown extension"],
)
def test_foreign_bytes_are_refused(data: bytes) -> None:
    """Bytes that are no such message raise and do nothing else."""
    with pytest.raises((msgspec.MsgspecError, ValueError)):
        Decoder[Abort](Abort).decode(data)


def test_arrays_of_objects_are_refused() -> None:
    """An object array would need pickle."""
    with pytest.raises((ValueError, TypeError)):
        Decoder[Box](Box).decode(encode(Box(np.array([object()]))))
