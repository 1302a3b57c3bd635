"""Hypothesis strategies: engines, and requests to them."""

from __future__ import annotations

from hypothesis import strategies as st

from hardpoint.contract.limits import BatchLimits, BatchShape
from hardpoint.testing.scheduling import Setup

VOCAB_SIZE = 24
WINDOWS = [(None,), (None,), (None, 4), (5,), (None, 7, 3), (1, None), (2,)]


@st.composite
def limits(draw: st.DrawFn) -> tuple[BatchLimits, bool]:
    """Return limits, and whether the device makes several tokens a step by itself."""
    rows = draw(st.integers(1, 6))
    tokens = draw(st.sampled_from([4, 7, 16, 48]))
    kind = draw(st.sampled_from(["plain", "plain", "counts", "unmixed", "shapes", "area", "draft", "multi"]))
    multiple = draw(st.sampled_from([1, 1, 1, 2, 4]))
    fields: dict[str, object] = {"max_tokens": tokens, "max_requests": rows, "chunk_multiple": multiple}
    multi_step = False
    if kind == "counts":
        fields |= {"max_prefills": draw(st.integers(1, 2)), "max_decodes": draw(st.integers(1, 3))}
        fields |= {"decode_after_prefill": draw(st.booleans())}
    elif kind == "unmixed":
        fields |= {"mix_prefill_decode": False, "decode_after_prefill": draw(st.booleans())}
        fields |= {"max_prefills": draw(st.sampled_from([None, 1]))}
    elif kind == "shapes":
        fields["shapes"] = draw(
            st.sampled_from(
                [
                    (BatchShape(tokens=8, requests=1), BatchShape(tokens=3, requests=3, decode=True)),
                    (BatchShape(tokens=4, requests=4), BatchShape(tokens=16, requests=2)),
                    (BatchShape(tokens=32, requests=6), BatchShape(tokens=2, requests=2, decode=True)),
                ]
            )
        )
    elif kind == "area":
        fields["token_area"] = draw(st.sampled_from([40, 64, 100]))
    elif kind in ("draft", "multi"):
        burst = draw(st.integers(2, 4))
        multi_step = kind == "multi"
        fields |= {"sampled_per_step": burst, "lookahead": burst - 1 if multi_step else draw(st.integers(0, 2))}
    else:
        fields["lookahead"] = draw(st.sampled_from([0, 0, 3]))
    return BatchLimits(**fields), multi_step


@st.composite
def setups(draw: st.DrawFn) -> Setup:
    """Return an engine whose pool is small enough for preemptions."""
    bounds, multi_step = draw(limits())
    chunked = draw(st.sampled_from([True, True, True, False]))
    return Setup(
        block_size=draw(st.sampled_from([1, 2, 4, 16])),
        num_blocks=draw(st.sampled_from([8, 12, 20, 40, 80, 200])),
        windows=draw(st.sampled_from(WINDOWS)),
        limits=bounds,
        max_model_len=draw(st.sampled_from([12, 24, 40])),
        depth=draw(st.integers(1, 2)),
        caching=draw(st.booleans()),
        chunked=chunked,
        threshold=draw(st.sampled_from([0, 0, 3])),
        policy=draw(st.sampled_from(["fcfs", "priority"])),
        multi_step=multi_step,
        vocab_size=VOCAB_SIZE,
        max_num_seqs=draw(st.sampled_from([256, 256, 2])),
    )


#: Prompts that share prefixes: so many tokens of one of two texts, then a few of their own.
prompts = st.tuples(
    st.integers(0, 1), st.integers(0, 20), st.lists(st.integers(0, VOCAB_SIZE - 1), min_size=1, max_size=4)
).map(lambda parts: [(parts[0] * 5 + 3 * i) % VOCAB_SIZE for i in range(parts[1])] + parts[2])
