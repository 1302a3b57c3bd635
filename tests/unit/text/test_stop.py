"""Stop strings: whatever the cuts, the text ends where the first stop string ends, and no part of it leaks."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from hardpoint.text.stop import StopAutomaton, StopScanner

#: Few letters, so that stop strings overlap each other and themselves.
TEXT = st.text(alphabet="abé", max_size=40)
STOPS = st.lists(st.text(alphabet="abé", min_size=1, max_size=5), min_size=1, max_size=4)


def naive(text: str, stops: list[str], include: bool, armed_from: int = 0) -> tuple[str, str | None]:
    """Find the match that ends first, the longest of those, by looking at every prefix."""
    for end in range(armed_from + 1, len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            stop = max(found, key=len)
            return text[: end if include else end - len(stop)], stop
    return text, None


def cut(text: str, cuts: list[int]) -> list[str]:
    edges = sorted({0, len(text), *(position % (len(text) + 1) for position in cuts)})
    return [text[a:b] for a, b in itertools.pairwise(edges)]


@given(TEXT, STOPS, st.booleans(), st.lists(st.integers(0, 100), max_size=10))
def test_every_way_of_cutting_gives_the_naive_answer(
    text: str, stops: list[str], include: bool, cuts: list[int]
) -> None:
    scanner = StopScanner(StopAutomaton(stops), include=include)
    shown, stop = "", None
    for part in cut(text, cuts):
        more, stop = scanner.feed(part)
        shown += more
        if stop is not None:
            break
    shown += scanner.flush()
    assert (shown, stop) == naive(text, stops, include)


@given(TEXT, STOPS)
def test_nothing_of_a_stop_string_is_shown_before_it_is_known(text: str, stops: list[str]) -> None:
    expected, _ = naive(text, stops, include=False)
    scanner = StopScanner(StopAutomaton(stops), include=False)
    shown = ""
    for position, character in enumerate(text):
        more, stop = scanner.feed(character)
        shown += more
        assert expected.startswith(shown)
        if stop is not None:
            break
        # Nothing is held back that cannot become a stop string: the rest is the longest suffix that begins one.
        read = text[: position + 1]
        held = next(n for n in range(len(read), -1, -1) if n == 0 or any(stop.startswith(read[-n:]) for stop in stops))
        assert len(shown) == len(read) - held


@given(TEXT, STOPS, st.booleans(), st.integers(0, 20))
def test_a_match_counts_when_it_ends_in_armed_text(text: str, stops: list[str], include: bool, unarmed: int) -> None:
    unarmed = min(unarmed, len(text))
    scanner = StopScanner(StopAutomaton(stops), include=include)
    shown, stop = scanner.feed(text[:unarmed], armed=False)
    assert stop is None
    more, stop = scanner.feed(text[unarmed:])
    assert (shown + more + scanner.flush(), stop) == naive(text, stops, include, armed_from=unarmed)


def test_time_is_linear_in_the_text_for_long_repetitive_stop_strings() -> None:
    stop = "a" * 20_000 + "b"
    automaton = StopAutomaton([stop])
    steps = 0
    original = automaton.step

    def counted(state: int, character: str) -> int:
        nonlocal steps
        steps += 1
        return original(state, character)

    automaton.step = counted  # type: ignore[method-assign]
    scanner = StopScanner(automaton, include=False)
    shown = "".join(scanner.feed("a")[0] for _ in range(60_000))
    assert steps == 60_000
    assert len(shown) == 40_000
