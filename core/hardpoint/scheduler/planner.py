"""Who computes how many tokens in a step: decodes, chunks of prompts, admissions, preemptions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from hardpoint.scheduler.running import Source
from hardpoint.scheduler.sequence import Sequence, State
from hardpoint.scheduler.step import Chunk, Step

if TYPE_CHECKING:
    from hardpoint.contract.policy import SortKey
    from hardpoint.contract.step import Int32s
    from hardpoint.scheduler.budget import StepBudget
    from hardpoint.scheduler.lifecycle import Lifecycle

#: Steps in a row that only prefill, on a platform that cannot mix, while something could decode.
PREFILL_STREAK: Final = 4


class StepPlanner:
    """Fills steps within a budget.

    Args:
        life: all sequences.
        budget: the limits of a step.
        max_running: sequences that run at the same time.
        chunked: whether a prompt may be spread over several steps.
        threshold: longest chunk of one prompt in a step; 0 is no bound.
    """

    def __init__(self, life: Lifecycle, budget: StepBudget, *, max_running: int, chunked: bool, threshold: int) -> None:
        self._life = life
        self._running = life.running
        self._budget = budget
        self._max_running = max_running
        self._chunked = chunked
        self._threshold = threshold
        self._chunk = min(budget.max_chunk, max(threshold, budget.limits.chunk_multiple) if threshold else NO_BOUND)
        self._owed = False
        self._streak = 0
        self._refused = (-1, 0, 0)
        self.drafts: dict[int, Int32s] = {}
        self.prefix_queries = 0
        self.prefix_hits = 0
        self.prompt_tokens = 0

    def fill(self) -> Step:
        """Return the next step; it is empty when nothing can run now."""
        budget, limits = self._budget, self._budget.limits
        budget.reset()
        step = Step(self._running.ready())
        some = np.count_nonzero(step.ready) > 0
        prefills = bool(self._running.prefilling) or len(self._life.queue) > 0
        only_decode = some and limits.decode_after_prefill and self._streak > 0
        if not limits.mix_prefill_decode:
            only_decode = only_decode or (some and self._streak >= PREFILL_STREAK)
            first = prefills and not only_decode
        else:
            first = prefills and self._owed and not only_decode
        self._owed = False
        if first:
            self._prefill(step)
        self._decode(step)
        # Where a decode had to come first and found no block, prefills go on: an empty step would help nobody.
        if prefills and not first and (budget.empty or not only_decode):
            self._prefill(step)
        self._streak = self._streak + 1 if budget.prefills else 0
        self._life.families.end_step()
        return step

    # Decodes

    def _decode(self, step: Step) -> None:
        table, budget = self._running.rows, self._budget
        if self.drafts:
            self._verify(step)
        if budget.takes_turns or not budget.empty:
            self._take_turns(step)
        else:
            self._visit(step)
        count = int(np.count_nonzero(step.ready))
        longest = int(table.computed[step.ready].max()) + 1 if count and budget.limits.token_area is not None else 0
        budget.add_decodes(count, longest)
        step.decoded = True

    def _take_turns(self, step: Step) -> None:
        """Leave as many decodes as fit, those that waited longest first; who finds no block gives its turn away."""
        table = self._running.rows
        left = step.ready.copy()
        while np.count_nonzero(left):
            rows = left.nonzero()[0]
            rows = rows[np.argsort(table.turn[rows], kind="stable")]
            chosen = rows[: self._budget.decodes_that_fit(table.computed[rows] + 1)]
            step.ready[:] = False
            step.ready[chosen] = True
            self._visit(step)
            if not len(chosen) or np.count_nonzero(step.ready):
                return
            left[chosen] = False
            left &= self._running.ready()
        step.ready[:] = False

    def _visit(self, step: Step) -> None:
        """Give blocks to rows that have filled theirs, and put the filled ones into the prefix cache."""
        running, table = self._running, self._running.rows
        visits = (step.ready & (table.computed >= table.visit)).nonzero()[0]
        if not len(visits):
            return
        running.flush(visits)
        running.trim(visits)
        short = running.columns_short(visits)
        wanting = short > 0
        needy = visits[wanting]
        groups = running.tables.num_groups
        if int(short.sum()) * groups <= running.pool.num_free:
            if len(needy):
                running.tables.extend(needy, short[wanting])
        else:
            wanted = dict(zip(needy.tolist(), short[wanting].tolist(), strict=True))
            for row in sorted(wanted, key=lambda row: running.rows.running[row].rank):
                # An earlier row of this loop may have preempted this one.
                if not step.ready[row]:
                    continue
                rank = running.rows.running[row].rank
                while step.ready[row] and wanted[row] * groups > running.pool.num_free:
                    if not self._reclaim(step, rank):
                        step.ready[row] = False
                if step.ready[row]:
                    running.tables.extend_row(row, wanted[row])
            # Rows that were preempted meanwhile are gone.
            visits = visits[table.known[visits] > 0]
        running.set_visits(visits)

    def _verify(self, step: Step) -> None:
        """Plan the rows that have drafts, as far as limits and free blocks allow; others decode without."""
        running, budget = self._running, self._budget
        table, drafts = running.rows, self.drafts
        self.drafts = {}
        if not budget.limits.mix_prefill_decode:
            return
        for handle, ids in drafts.items():
            sequence = self._life.sequences.get(handle)
            row = sequence.row if sequence is not None else -1
            if row < 0 or not step.ready[row] or table.known[row] != table.computed[row] + 1:
                continue
            computed = int(table.computed[row])
            room = min(budget.prefill_room(computed) - 1, budget.limits.sampled_per_step - 1)
            count = min(len(ids), room, int(table.limit[row]) - computed - 2)
            if count < 1:
                continue
            only = np.array([row])
            running.flush(only)
            running.trim(only)
            short = int(running.columns_short(only, 1 + count)[0])
            if short * running.tables.num_groups > running.pool.num_free:
                continue
            running.tables.extend_row(row, short)
            running.set_visits(only)
            step.ready[row] = False
            step.add(Chunk(row, 1 + count, computed, True, ids[:count]))
            budget.add_prefill(1 + count, computed + 1 + count)
            table.computed[row] = computed + 1 + count

    # Prefills

    def _prefill(self, step: Step) -> None:
        for sequence in sorted(self._running.prefilling.values(), key=lambda sequence: sequence.rank):
            # A sequence before this one may have preempted it.
            if sequence.state is State.RUNNING:
                self._continue(step, sequence)
        rows, queue = self._running.rows, self._life.queue
        while rows.num_free and len(self._running) < self._max_running:
            sequence_or_none = queue.peek()
            if sequence_or_none is None or not self._admit(step, sequence_or_none):
                break

    def _size(self, computed: int, known: int) -> int:
        """Return how many tokens the limits give to a prefill that has ``computed`` of ``known``."""
        remaining = known - computed
        if remaining == 1:
            size = int(self._budget.decode_fits(known))
        else:
            room = self._budget.prefill_room(computed)
            size = self._budget.chunk(remaining, room, self._threshold)
        if not size:
            self._note_debt()
        return size

    def _note_debt(self) -> None:
        """Let prefills go first in the next step if decodes left no room for any in this one."""
        if self._budget.decodes and not self._budget.prefills:
            self._owed = True

    def _continue(self, step: Step, sequence: Sequence) -> None:
        row = sequence.row
        computed = int(self._running.rows.computed[row])
        size = self._size(computed, len(sequence.tokens))
        if not size:
            return
        self._running.tables.trim_row(row, computed)
        while not (fits := self._affordable(row, computed, size, len(sequence.tokens))):
            if not self._reclaim(step, sequence.rank):
                return
        self._compute(step, sequence, computed, fits, silent=False)

    def _columns(self, row: int, computed: int, size: int, known: int) -> int:
        """Return the columns that a chunk lacks, those of the lookahead included if it ends the known tokens."""
        running = self._running
        reach = computed + size + (running.lookahead if computed + size == known else 0)
        return max(running.tables.columns_for(reach) - int(running.tables.columns[row]), 0)

    def _affordable(self, row: int, computed: int, size: int, known: int) -> int:
        """Return the largest legal chunk of at most ``size`` tokens for which there are free blocks."""
        running = self._running
        columns = running.pool.num_free // running.tables.num_groups
        if self._columns(row, computed, size, known) <= columns:
            return size
        if not self._chunked:
            return 0
        room = (int(running.tables.columns[row]) + columns) * running.block_size - computed
        room = min(room, known - computed - 1)
        return max(room - room % self._budget.limits.chunk_multiple, 0)

    def _compute(self, step: Step, sequence: Sequence, computed: int, size: int, *, silent: bool) -> None:
        """Plan a chunk for which limits and blocks were found."""
        running, row, known = self._running, sequence.row, len(sequence.tokens)
        running.tables.extend_row(row, self._columns(row, computed, size, known), silent=silent)
        if known - computed == 1:
            self._budget.add_decodes(1, known)
        else:
            self._budget.add_prefill(size, computed + size)
        final = running.compute(row, size)
        step.add(Chunk(row, size, computed, final))
        if final:
            self._life.families.share(sequence)

    # Admission

    def _admit(self, step: Step, sequence: Sequence) -> bool:
        """Start a waiting sequence if limits and blocks allow."""
        running, life = self._running, self._life
        known = len(sequence.tokens)
        if not self._budget.prefill_room(0) and not self._budget.decode_fits(known):
            self._note_debt()
            return False
        free = running.pool.num_free
        if len(running) and self._refused[:2] == (sequence.order, running.changes) and free <= self._refused[2]:
            return False
        while True:
            source = self._source(sequence)
            if self._fits(sequence, source):
                break
            if len(running):
                self._refused = (sequence.order, running.changes, free)
                return False
            if not life.families.drop():
                break
        size = self._size(source.computed, known)
        if not size:
            return False
        forked = life.families.source(sequence) is not None
        life.queue.remove(sequence)
        sequence.state = State.RUNNING
        if forked and sequence.family is not None and sequence.family.chain is not None:
            sequence.chain = sequence.family.chain.fork(source.computed // running.block_size)
        row = running.start(sequence, source)
        size = self._affordable(row, source.computed, size, known)
        assert size, f"sequence {sequence.handle} was admitted and has no blocks for its first token"
        self._compute(step, sequence, source.computed, size, silent=True)
        if forked:
            step.copies += life.families.copies(sequence)
        if not sequence.started:
            self._count_first(step, sequence, 0 if forked else source.computed)
        step.starts.append((sequence, source.computed))
        return True

    def _source(self, sequence: Sequence) -> Source:
        shared = self._life.families.source(sequence)
        if shared is not None:
            return shared
        running = self._running
        if running.caching and not sequence.wants_prompt and not sequence.params.skip_reading_prefix_cache:
            hit = running.lookup(sequence)
            return Source(hit.blocks, hit.num_blocks * running.block_size)
        return Source(tuple(NO_BLOCKS for _ in range(running.tables.num_groups)), 0)

    def _fits(self, sequence: Sequence, source: Source) -> bool:
        """Whether all known tokens of a waiting sequence fit beside what the running ones are about to need.

        Running prompts get what they were admitted for, and each running sequence keeps a block to grow into, so that a
        new one does not at once preempt another.
        """
        running = self._running
        tables, pool = running.tables, running.pool
        known, chunk = len(sequence.tokens), self._chunk
        columns = len(source.blocks[0])
        more = tables.columns_for(known + running.lookahead) - columns
        needed = 0
        for ids, window in zip(source.blocks, tables.windows, strict=True):
            needed += pool.num_idle(ids) + tables.growth(more, int(np.count_nonzero(ids)), window, chunk)
        for row, other in running.prefilling.items():
            needed += tables.blocks_to_come(row, len(other.tokens), chunk)
        return needed + running.full_groups * len(running) <= pool.num_free

    def _count_first(self, step: Step, sequence: Sequence, cached: int) -> None:
        sequence.started = True
        step.cached.append((sequence.handle, cached))
        if sequence.family is not None:
            sequence.family.pending -= 1
        if sequence.family is None or sequence.family.leader is sequence:
            self.prompt_tokens += sequence.num_prompt
        if self._running.caching:
            self.prefix_queries += sequence.num_prompt
            self.prefix_hits += cached

    def _reclaim(self, step: Step, rank: tuple[SortKey, int]) -> bool:
        """Free blocks for a sequence: a held prompt, or the last running sequence that comes after it.

        ``False`` when there is none; the sequence then keeps its blocks and waits, because those before it go on.
        """
        life, budget = self._life, self._budget
        if life.families.drop():
            return True
        victims = [sequence for row, sequence in life.running.rows.running.items() if row not in step.planned]
        victim = max(victims, key=lambda sequence: sequence.rank, default=None)
        if victim is None or victim.rank <= rank:
            return False
        if step.ready[victim.row]:
            step.ready[victim.row] = False
            if step.decoded:
                budget.remove_decode()
        life.preempt(victim)
        return True


NO_BOUND: Final = 2**31 - 1
NO_BLOCKS: Final = np.empty(0, np.int32)
