"""Sequences that share a prompt (``n > 1``): the first one computes it, the others take its blocks.

The others wait until the whole prompt is scheduled. Then the prompt's blocks are held once for all of them; each takes a
reference when it starts, copies the block of the last prompt token (which it computes itself, to sample), and the common
hold is dropped with the last start. When blocks are short the hold is dropped early; who has not started then computes
the prompt again.
"""

from __future__ import annotations

from collections.abc import Iterator

from hardpoint.blocks.prefix import first_needed
from hardpoint.scheduler.queue import WaitingQueue
from hardpoint.scheduler.running import RunningSet, Source
from hardpoint.scheduler.sequence import Family, Sequence, State


class Families:
    """All families whose prompts are held, and those that were completed in the step under construction."""

    def __init__(self, running: RunningSet, queue: WaitingQueue) -> None:
        self._running = running
        self._queue = queue
        self._holding: dict[Family, None] = {}
        self._completed: list[Family] = []

    def __iter__(self) -> Iterator[Family]:
        return iter(self._holding)

    def share(self, leader: Sequence) -> None:
        """Hold the blocks of a prompt that its leader has just scheduled to the end."""
        family = leader.family
        if family is None or family.leader is not leader or family.computed:
            return
        family.computed = True
        tables, pool = self._running.tables, self._running.pool
        columns = tables.columns_for(leader.num_prompt)
        blocks = tuple(ids[:columns] for ids in tables.blocks(leader.row))
        for ids, window in zip(blocks, tables.windows, strict=True):
            ids[: first_needed(leader.num_prompt - 1, window, tables.block_size)] = 0
            pool.hold(ids)
        family.blocks = blocks
        if leader.chain is not None:
            family.chain = leader.chain.fork(leader.num_prompt // tables.block_size)
        self._holding[family] = None
        self._completed.append(family)

    def source(self, sequence: Sequence) -> Source | None:
        """Return the prompt's blocks before the last token's one, ``None`` when the sequence has no share in any."""
        family = sequence.family
        if family is None or sequence.started or not family.blocks:
            return None
        computed = sequence.num_prompt - 1
        column = computed // self._running.block_size
        return Source(tuple(ids[:column] for ids in family.blocks), computed)

    def copies(self, sequence: Sequence) -> list[tuple[int, int]]:
        """Return (source, destination) of the last prompt block in each group, for a sequence that starts from a share."""
        family = sequence.family
        assert family is not None
        column, filled = divmod(sequence.num_prompt - 1, self._running.block_size)
        if not filled:
            return []
        tables = self._running.tables.ids
        return [
            (int(ids[column]), int(table[sequence.row, column]))
            for ids, table in zip(family.blocks, tables, strict=True)
        ]

    def drop(self) -> bool:
        """Give up one held prompt; ``False`` when none is held."""
        if not self._holding:
            return False
        family, _none = self._holding.popitem()
        self._release(family)
        return True

    def leave(self, sequence: Sequence) -> None:
        """Take a sequence that ends out of its family; another one computes the prompt if this one should have."""
        family = sequence.family
        if family is None:
            return
        family.members.remove(sequence)
        family.pending -= not sequence.started
        if family.leader is sequence and not family.computed and family.members:
            family.leader = family.members[0]
            family.leader.wants_prompt = sequence.wants_prompt
            self._enqueue(family.leader)

    def end_step(self) -> None:
        """Queue the members of prompts completed in this step, and drop holds that nobody waits for."""
        for family in self._completed:
            for member in family.members:
                if member.state is State.FORKING:
                    self._enqueue(member)
        self._completed.clear()
        # Not earlier: a dropped block could become the destination of a copy in the same step.
        for family in [family for family in self._holding if not family.pending]:
            del self._holding[family]
            self._release(family)

    def clear(self) -> None:
        """Drop every hold."""
        while self.drop():
            pass
        self._completed.clear()

    def _enqueue(self, sequence: Sequence) -> None:
        sequence.state = State.WAITING
        self._queue.push(sequence)

    def _release(self, family: Family) -> None:
        for ids in family.blocks:
            self._running.pool.release(ids[ids != 0])
        family.blocks = ()
        self._running.changes += 1
