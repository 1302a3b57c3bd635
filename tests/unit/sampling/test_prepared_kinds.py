"""What prepared steps sample by themselves, and how the host tells them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hardpoint.params import SamplingParams
from hardpoint.runner.sampling import GREEDY, SamplingKind
from hardpoint.runner.sampling.transfer import Uploads
from hardpoint.runner.step_buffer import StepBuffer
from hardpoint_cpu.device import CpuEvent
from unit.sampling.bench import HostDevice, sampler, start

VOCAB = 300
PLAIN = SamplingParams(temperature=0.0)
FULL = SamplingParams(temperature=0.8, seed=3)
TOP_K = SamplingParams(temperature=0.8, top_k=7, seed=4)


class Device(HostDevice):
    def event(self) -> CpuEvent:
        return CpuEvent()


@pytest.mark.parametrize(
    ("rows", "kind"),
    [
        ([PLAIN], GREEDY),
        ([PLAIN, PLAIN.replace(top_p=0.5), FULL.replace(top_k=1)], GREEDY),
        ([PLAIN, FULL], SamplingKind(full=True)),
        ([FULL.replace(top_k=VOCAB)], SamplingKind(full=True)),
        ([TOP_K, PLAIN], SamplingKind(top_k=True)),
        ([FULL, TOP_K, PLAIN], SamplingKind(full=True, top_k=True)),
        ([TOP_K.replace(top_k=129)], None),
        ([TOP_K, PLAIN.replace(presence_penalty=0.5)], None),
        ([PLAIN.replace(logprobs=1)], None),
        ([PLAIN.replace(logit_bias={3: 1.0})], None),
        ([PLAIN.replace(min_tokens=2, stop_token_ids=[5])], None),
        ([PLAIN.replace(bad_words_token_ids=[[1, 2]])], None),
    ],
)
def test_kinds(rows: list[SamplingParams], kind: SamplingKind | None) -> None:
    target = sampler(VOCAB)
    for row, params in enumerate(rows):
        target.start(start(row, params, [1]))
    assert target.kind(np.arange(len(rows), dtype=np.int32)) == kind


params = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 0.4, 1.0, 1.8]),
    top_k=st.sampled_from([0, 1, 4, 60]),
    top_p=st.sampled_from([1.0, 0.9, 0.3]),
    min_p=st.sampled_from([0.0, 0.05]),
    seed=st.integers(0, 99),
)


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(params, min_size=1, max_size=5), more=st.integers(0, 3), seed=st.integers(0, 99))
def test_choosing_inside_a_step_is_sampling_after_it(rows: list[SamplingParams], more: int, seed: int) -> None:
    """Rows beyond the step's own have any logits and must not matter."""
    target = sampler(VOCAB)
    for row, one in enumerate(rows):
        target.start(start(row, one, [1, 2]))
    batch = np.random.default_rng(seed).permutation(len(rows)).astype(np.int32)
    lengths = (batch + 2).astype(np.int32)
    size = len(rows) + more
    logits = torch.randn(size, VOCAB, generator=torch.Generator().manual_seed(seed)) * 3
    kind = target.kind(batch)
    assert kind is not None
    buffer = StepBuffer(8, Device(), 2)
    if kind.draws:
        target.fill(buffer.host(size), batch, lengths)
        buffer.upload(size, draws=True)
    tokens, best = target.choose(logits, buffer.fields(size), kind)
    expected = target.sample(logits[: len(rows)].clone(), batch, lengths)
    assert torch.equal(tokens[: len(rows)], expected.tokens)
    assert torch.equal(best[: len(rows)], expected.best)


def test_a_step_buffer_keeps_what_is_on_its_way_apart() -> None:
    """Fields of one size arrive where the device reads them; the next host buffer is another one."""
    buffer = StepBuffer(6, Device(), 3)
    there = buffer.fields(4)
    for value in range(1, 8):
        host = buffer.host(4)
        host.turn[0], host.rows[:], host.computed[:] = buffer.turn, value, 10 * value
        before = buffer.turn
        buffer.upload(4, draws=False)
        assert buffer.turn == (before + 1) % 3
        assert (int(there.turn[0]), there.rows.tolist(), there.computed.tolist()) == (
            before,
            [value] * 4,
            [10 * value] * 4,
        )


@given(
    st.lists(
        st.tuples(st.sampled_from(["int32", "int64", "float32", "float64"]), st.integers(0, 9)), min_size=1, max_size=6
    )
)
def test_arrays_that_travel_together_arrive_as_they_were(shapes: list[tuple[str, int]]) -> None:
    arrays = [np.arange(size).astype(kind) + at for at, (kind, size) in enumerate(shapes)]
    expected = [array.copy() for array in arrays]
    arrays[0].flags.writeable = False
    found = Uploads(Device()).together(*arrays)
    for array in arrays[1:]:
        array[:] = 0
    for tensor, array in zip(found, expected, strict=True):
        assert tensor.numpy().dtype == array.dtype
        assert np.array_equal(tensor.numpy(), array)
