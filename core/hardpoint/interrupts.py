"""Ctrl-C between steps instead of inside them."""

from __future__ import annotations

import signal
import threading
from types import FrameType


class DeferredInterrupt:
    """While entered, the first SIGINT is remembered and raised by :meth:`check`; the second is raised at once.

    An interrupt in the middle of a step would leave the engine's books half written. Does nothing outside the main thread
    and where somebody else handles SIGINT already.
    """

    def __init__(self) -> None:
        """Remember nothing yet."""
        self._pending = False
        self._installed = False

    def __enter__(self) -> DeferredInterrupt:
        if (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        ):
            signal.signal(signal.SIGINT, self._remember)
            self._installed = True
        return self

    def __exit__(self, *error: object) -> None:
        if self._installed:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            self._installed = False

    def check(self) -> None:
        """Raise the interrupt that came since the last check, if one did."""
        if self._pending:
            self._pending = False
            raise KeyboardInterrupt

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self._pending:
            signal.default_int_handler(number, frame)
        self._pending = True
