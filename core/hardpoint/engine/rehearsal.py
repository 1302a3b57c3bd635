"""A few made-up requests before the first real one: what is compiled, planned or loaded on first use is there then."""

from __future__ import annotations

import logging
import time
from typing import Final

import numpy as np

from hardpoint.contract.limits import BatchLimits
from hardpoint.contract.runner import Executor
from hardpoint.engine.loop import EngineLoop
from hardpoint.engine.messages import EngineRequest
from hardpoint.params import SamplingParams
from hardpoint.scheduler import Scheduler

log = logging.getLogger(__name__)

#: Tokens of a short prompt, of a long one, and those generated for each.
_SHORT: Final = 100
_LONG: Final = 1000
_GENERATED: Final = 3


def rehearse(
    scheduler: Scheduler, executor: Executor, limits: BatchLimits, *, max_model_len: int, vocab_size: int, depth: int
) -> float:
    """Run one short prompt alone, then one long prompt more than a step holds, and return the seconds that it took.

    So steps come up with one prompt, with many, with the rest of a prompt beside decodes, and with decodes alone.

    Args:
        scheduler: for this only; its sequences and its prefix cache are forgotten with it.
        executor: started; every row of it is free afterwards.
        limits: of a step.
        max_model_len: longest sequence in tokens.
        vocab_size: token ids are below this.
        depth: steps in flight.

    Raises:
        EngineDeadError: when the device breaks.
    """
    began = time.perf_counter()
    loop = EngineLoop(scheduler, executor, depth=depth)
    short, long = (max(1, min(length, max_model_len - _GENERATED)) for length in (_SHORT, _LONG))
    many = min(limits.max_tokens // long + 1, limits.max_requests)
    handle = 0
    for count, length in ((1, short), (many, long)):
        for _ in range(count):
            handle += 1
            # Different first tokens: none is to find its prefix in the cache.
            token_ids = ((np.arange(length) + 31 * handle) % vocab_size).astype(np.int32)
            params = SamplingParams(temperature=0.0, max_tokens=_GENERATED, ignore_eos=True, detokenize=False)
            loop.add(
                EngineRequest(request_id=f"rehearsal-{handle}", handles=(handle,), token_ids=token_ids, params=params)
            )
        while loop.has_work:
            loop.step()
    executor.recover()
    seconds = time.perf_counter() - began
    log.info("a rehearsal of %d requests took %.1f s", handle, seconds)
    return seconds
