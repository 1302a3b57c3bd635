"""The transitions of a sequence: queued, preempted, settled, ended. Every end goes through :meth:`Lifecycle.end`."""

from __future__ import annotations

import numpy as np

from hardpoint.contract.policy import SchedulingPolicy
from hardpoint.engine.messages import Finish
from hardpoint.scheduler.families import Families
from hardpoint.scheduler.queue import WaitingQueue
from hardpoint.scheduler.running import RunningSet
from hardpoint.scheduler.sequence import Sequence, State
from hardpoint.scheduler.step import Flight


class Lifecycle:
    """All sequences that have not ended, and where each of them is.

    Attributes:
        sequences: by handle.
        queue: those that may take a row.
        flights: steps whose results are awaited, by number.
        orphans: (row, generation) -> sequence, for sequences preempted while steps were in flight.
        finished: ends that no output has told yet.
        preemptions: since the start.
    """

    def __init__(self, running: RunningSet, policy: SchedulingPolicy) -> None:
        self.running = running
        self.policy = policy
        self.sequences: dict[int, Sequence] = {}
        self.queue = WaitingQueue()
        self.families = Families(running, self.queue)
        self.flights: dict[int, Flight] = {}
        self.orphans: dict[tuple[int, int], Sequence] = {}
        self.finished: list[Finish] = []
        self.preemptions = 0

    @property
    def num_waiting(self) -> int:
        """Sequences that have not ended and hold no row."""
        return len(self.sequences) - len(self.running)

    def end(self, sequence: Sequence, finish: Finish) -> None:
        """End a sequence, wherever it is, and free what it holds. Tokens of it that are in flight will be dropped."""
        state, sequence.state = sequence.state, State.FINISHED
        if state is State.WAITING:
            self.queue.remove(sequence)
        elif state is State.RUNNING:
            if finish.reason == "error":
                # What it computed cannot be trusted, so no other prompt may begin with it.
                for group in range(self.running.tables.num_groups):
                    self.running.pool.forget(self.running.tables.live_blocks(sequence.row, group))
            else:
                self.running.flush(np.array([sequence.row]))
            self.running.release(sequence)
        del self.sequences[sequence.handle]
        self.families.leave(sequence)
        sequence.chain = None
        self.finished.append(finish)

    def preempt(self, sequence: Sequence) -> None:
        """Take a sequence's row and blocks away; it computes its tokens again when it gets another row.

        Tokens of it that are in flight are still good, so it queues only when their steps were consumed.
        """
        running, row = self.running, sequence.row
        generation = int(running.rows.generation[row])
        if row not in running.prefilling:
            running.flush(np.array([row]))
            sequence.tokens = running.rows.tokens_of(row)
        if sequence.wants_prompt:
            sequence.prompt_parts.clear()
        running.release(sequence)
        self.preemptions += 1
        sequence.settling = sum(flight.holds(row, generation) for flight in self.flights.values())
        if sequence.settling:
            sequence.state = State.SETTLING
            self.orphans[row, generation] = sequence
        else:
            self.enqueue(sequence)

    def settle(self, row: int, generation: int) -> None:
        """Count one step in flight of a preempted sequence as consumed."""
        sequence = self.orphans[row, generation]
        sequence.settling -= 1
        if not sequence.settling:
            del self.orphans[row, generation]
            if sequence.state is State.SETTLING:
                self.enqueue(sequence)

    def enqueue(self, sequence: Sequence) -> None:
        """Put a preempted sequence into the queue, at the place that the policy gives it now."""
        sequence.state = State.WAITING
        if sequence.chain is not None:
            sequence.chain.restart(sequence.tokens.tobytes())
        sequence.key = self.policy.key(sequence.view)
        self.queue.push(sequence)
