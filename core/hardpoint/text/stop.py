"""Stop strings across token borders, in linear time (Aho and Corasick, 1975)."""

from __future__ import annotations

from collections.abc import Sequence


class StopAutomaton:
    """Finds any of several strings in one pass, a character at a time.

    A state is the longest suffix of the text read so far that begins some stop string; its depth is that suffix's length.
    One automaton serves all sequences with the same stop strings.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        """Build the automaton for non-empty ``stops``; takes time and memory linear in their total length."""
        self._next: list[dict[str, int]] = [{}]
        self._depth = [0]
        self._found: list[str | None] = [None]
        for stop in stops:
            self._insert(stop)
        self._fail = [0] * len(self._next)
        self._link()

    def _insert(self, stop: str) -> None:
        state = 0
        for character in stop:
            following = self._next[state].get(character)
            if following is None:
                following = len(self._next)
                self._next[state][character] = following
                self._next.append({})
                self._depth.append(self._depth[state] + 1)
                self._found.append(None)
            state = following
        self._found[state] = stop

    def _link(self) -> None:
        order = list(self._next[0].values())
        for state in order:
            for character, child in self._next[state].items():
                self._fail[child] = self.step(self._fail[state], character)
                if self._found[child] is None:
                    self._found[child] = self._found[self._fail[child]]
                order.append(child)

    def step(self, state: int, character: str) -> int:
        """Return the state after ``character``."""
        while (following := self._next[state].get(character)) is None:
            if state == 0:
                return 0
            state = self._fail[state]
        return following

    def depth(self, state: int) -> int:
        """Return how many of the last characters may still become part of a stop string."""
        return self._depth[state]

    def found(self, state: int) -> str | None:
        """Return the longest stop string that ends in ``state``."""
        return self._found[state]


class StopScanner:
    """Passes one sequence's text on, but never a part of a stop string.

    The match that ends first wins; of those that end at the same character, the longest. The result does not depend on how
    the text is cut into pieces.
    """

    def __init__(self, automaton: StopAutomaton, *, include: bool) -> None:
        """Scan with ``automaton``; ``include`` keeps the stop string in the text, so that nothing is held back."""
        self._automaton = automaton
        self._include = include
        self._state = 0
        self._held = ""

    def feed(self, text: str, *, armed: bool = True) -> tuple[str, str | None]:
        """Read more text.

        Args:
            text: what follows.
            armed: whether a stop string that ends in ``text`` ends the sequence; it may begin in unarmed text.

        Returns:
            The text that may be shown, and the stop string that was found, after which nothing more may be fed.
        """
        automaton = self._automaton
        state = self._state
        for position, character in enumerate(text):
            state = automaton.step(state, character)
            if armed and (stop := automaton.found(state)) is not None:
                self._state = state
                whole = self._held + text[: position + 1]
                self._held = ""
                return (whole if self._include else whole[: len(whole) - len(stop)]), stop
        self._state = state
        if self._include:
            return text, None
        whole = self._held + text
        shown = len(whole) - automaton.depth(state)
        self._held = whole[shown:]
        return whole[:shown], None

    def flush(self) -> str:
        """Return the text held back; the sequence ended without a stop string."""
        held, self._held = self._held, ""
        return held
