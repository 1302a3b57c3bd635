"""Which request gets how many tokens in each step. Pure Python and numpy."""

from hardpoint.scheduler.scheduler import Scheduler

__all__ = ["Scheduler"]
