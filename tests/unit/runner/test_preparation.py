"""Which prepared step runs a batch, and which is prepared next."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hardpoint.runner.preparation import _PAUSE, Choice, Preparation

SIZES = (1, 2, 4, 8, 16, 24, 32, 64)


def ready(*sizes: int, kind: str = "greedy") -> Preparation:
    made = Preparation(SIZES)
    for size in sizes:
        made.done(size, kind)
    return made


def test_the_smallest_size_that_holds_the_rows_is_used() -> None:
    made = ready(*SIZES)
    assert [made.choose(rows, "greedy") for rows in (1, 3, 8, 17, 64)] == [Choice(n) for n in (1, 4, 8, 24, 64)]
    assert made.choose(65, "greedy") is None
    assert not made.holds(65)


def test_a_size_in_use_is_prepared_at_once_and_others_wait_their_turn() -> None:
    made = ready(1, 64)
    assert made.choose(8, "greedy") == Choice(8, prepare=True)
    made.done(8, "greedy")
    # The next one would follow at once: until then the larger ones serve.
    assert made.choose(3, "greedy") == Choice(8)
    assert made.choose(20, "greedy") == Choice(64)
    for _ in range(_PAUSE - 3):
        assert made.choose(8, "greedy") == Choice(8)
    assert made.choose(20, "greedy") == Choice(24, prepare=True)


def test_what_would_run_unprepared_does_not_wait() -> None:
    made = ready(1, 64)
    assert made.choose(2, "greedy") == Choice(2, prepare=True)
    assert made.choose(2, "random") == Choice(2, prepare=True)
    made.done(2, "random")
    assert made.choose(1, "random") == Choice(2)
    assert made.choose(3, "random") == Choice(4, prepare=True)
    made.refuse(4, "random")
    for _ in range(_PAUSE):
        assert made.choose(3, "random") is None
    made.refuse(2, "greedy")
    assert made.choose(2, "greedy") == Choice(64)


def test_kinds_that_are_expected_are_prepared_in_idle_moments() -> None:
    made = ready(*SIZES)
    assert made.next() is None
    made.expect("random")
    made.expect("greedy")
    assert made.next() == (1, "random")


def test_idle_moments_prepare_what_was_missed_first_and_everything_in_the_end() -> None:
    made = ready(1, 64)
    made.choose(8, "greedy")
    made.refuse(8, "greedy")
    for _ in range(2):
        made.choose(20, "greedy")
    made.choose(30, "greedy")
    order = []
    while (wanted := made.next()) is not None:
        order.append(wanted[0])
        made.done(*wanted)
    assert order == [24, 32, 2, 4, 16]
    assert made.ready() == {"greedy": [1, 2, 4, 16, 24, 32, 64]}
    assert made.describe() == {"possible": list(SIZES), "refused": [8], "padded_steps": 3, "unprepared_steps": 0}


def test_what_an_idle_moment_cannot_prepare_is_left_to_the_steps() -> None:
    made = ready(1)
    while (wanted := made.next()) is not None:
        made.leave(*wanted)
    assert made.choose(64, "greedy") == Choice(64, prepare=True)


@given(st.lists(st.tuples(st.integers(1, 70), st.sampled_from(["greedy", "random"])), max_size=80))
def test_what_is_chosen_holds_the_rows_and_is_there(steps: list[tuple[int, str]]) -> None:
    made, there = Preparation(SIZES), set()
    preparations = [-_PAUSE]
    for number, (rows, kind) in enumerate(steps):
        choice = made.choose(rows, kind)
        if choice is None:
            continue
        assert choice.size >= rows
        if choice.prepare:
            assert (choice.size, kind) not in there
            larger = any(size >= choice.size for size, other in there if other == kind)
            assert not larger or number - preparations[-1] >= _PAUSE
            preparations.append(number)
            there.add((choice.size, kind))
            made.done(choice.size, kind)
        assert (choice.size, kind) in there
