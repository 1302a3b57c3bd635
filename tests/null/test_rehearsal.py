"""The rehearsal keeps to the contract whatever the limits, and leaves nothing behind."""

from __future__ import annotations

import numpy as np
import pytest

from hardpoint.config import EngineConfig
from hardpoint.contract.errors import EngineDeadError
from hardpoint.contract.kv import KVGroup, KVPlan
from hardpoint.contract.limits import BatchLimits
from hardpoint.engine.loop import EngineLoop
from hardpoint.engine.messages import EngineRequest
from hardpoint.engine.rehearsal import rehearse
from hardpoint.params import SamplingParams
from hardpoint.scheduler import Scheduler
from hardpoint.scheduler.policies import FirstComeFirstServed
from hardpoint.testing.null import NullExecutor
from hardpoint.testing.null_model import NullModel

VOCAB = 24


def engine(limits: BatchLimits, blocks: int, length: int, windows: tuple[int | None, ...] = (None,)):
    model = NullModel(VOCAB, windows)
    kv = KVPlan(
        block_size=4, num_blocks=blocks, groups=tuple(KVGroup(window=w, layers=(i,)) for i, w in enumerate(windows))
    )
    executor = NullExecutor(
        model, block_size=4, num_blocks=blocks, num_rows=limits.max_requests, max_model_len=length, fail_step=None
    )
    executor.start(kv)
    return model, executor, lambda: Scheduler(EngineConfig(), limits, kv, length, VOCAB, FirstComeFirstServed())


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize(
    ("limits", "blocks", "length"),
    [
        (BatchLimits(max_tokens=2048, max_requests=8), 1200, 1200),
        (BatchLimits(max_tokens=64, max_requests=4), 40, 128),  # preempts
        (BatchLimits(max_tokens=16, max_requests=2, mix_prefill_decode=False), 40, 64),
        (BatchLimits(max_tokens=1, max_requests=1), 5, 5),
        (BatchLimits(max_tokens=8, max_requests=1), 3, 2),  # no room for a prompt and what follows
    ],
)
def test_every_row_is_free_afterwards(limits: BatchLimits, blocks: int, length: int, depth: int) -> None:
    model, executor, scheduler = engine(limits, blocks, length)
    used = scheduler()
    rehearse(used, executor, limits, max_model_len=length, vocab_size=VOCAB, depth=depth)
    used.assert_idle()
    loop = EngineLoop(scheduler(), executor, depth=depth)
    params = SamplingParams(temperature=0.0, max_tokens=1, ignore_eos=True)
    loop.add(EngineRequest(request_id="real", handles=(1,), token_ids=np.array([3], np.int32), params=params))
    tokens: list[int] = []
    while loop.has_work:
        outputs = loop.step()
        tokens += [] if outputs is None else outputs.tokens.tolist()
    assert tokens == model.generate([3], params, eos=[], max_model_len=length).tokens


def test_many_prompts_and_the_rest_of_one_beside_decodes_come_up() -> None:
    limits = BatchLimits(max_tokens=2048, max_requests=8)
    _model, executor, scheduler = engine(limits, 3000, 1200, (None, 16))
    rehearse(scheduler(), executor, limits, max_model_len=1200, vocab_size=VOCAB, depth=2)
    kinds = {
        (len(plan.rows) > 1, plan.num_decodes > 0, bool((plan.num_computed[plan.num_decodes :] > 0).any()))
        for plan in executor.steps
    }
    assert {(False, False, False), (True, False, False), (True, True, True), (True, True, False)} <= kinds


def test_a_device_that_breaks_ends_the_start() -> None:
    limits = BatchLimits(max_tokens=64, max_requests=4)
    _model, executor, scheduler = engine(limits, 40, 128)
    executor.fail_step = 1
    executor._fails_for_good = True
    with pytest.raises(EngineDeadError, match="step 1 fails as asked"):
        rehearse(scheduler(), executor, limits, max_model_len=128, vocab_size=VOCAB, depth=2)
