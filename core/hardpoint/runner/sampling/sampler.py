"""The sampler: one call a step, for whatever mix of requests shares the batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hardpoint.contract.device import Device
from hardpoint.contract.step import Int32s, RowStart, TokenLogprobs
from hardpoint.ops.ranking import CHUNK
from hardpoint.runner.sampling.bad_words import BadWords, WordGroup
from hardpoint.runner.sampling.draws import Draws
from hardpoint.runner.sampling.kinds import GREEDY, SamplingKind, choose, fill, kind_of
from hardpoint.runner.sampling.logprobs import LogprobGroup, LogprobsCopy, logprob_groups, prompt_logprobs, split
from hardpoint.runner.sampling.masks import Masks, StopMask, masks
from hardpoint.runner.sampling.penalties import Penalties, PenaltyGroup
from hardpoint.runner.sampling.rows import PENALTIES, WORDS, Rows
from hardpoint.runner.sampling.transfer import Uploads
from hardpoint.runner.step_buffer import StepFields

if TYPE_CHECKING:
    from hardpoint.ops import OpTable


@dataclass(frozen=True, slots=True)
class Sampled:
    """What a step sampled.

    Attributes:
        tokens: int64[n] on the device.
        best: float32[n] on the device, each row's largest logit after masks and penalties. A row can go on only if it is
            finite: NaN or plus infinity is the model's fault, minus infinity says that masks left nothing to sample. The
            token of such a row is in the vocabulary and otherwise without meaning.
    """

    tokens: torch.Tensor
    best: torch.Tensor
    copies: Sequence[tuple[LogprobGroup, LogprobsCopy]] = ()

    def logprobs(self) -> dict[int, TokenLogprobs]:
        """Wait for the log-probabilities of rows that asked; keys are positions in the batch given to ``sample``."""
        return {at: row for group, copy in self.copies for at, row in split(group, copy.result()).items()}


@dataclass(frozen=True, slots=True)
class _Batch:
    """What sampling does with one sequence of rows; it stays true until a row starts or stops."""

    key: bytes
    masks: Masks | None
    words: WordGroup | None
    stops: StopMask
    penalties: PenaltyGroup | None
    draws: Draws
    logprobs: list[LogprobGroup]


class Sampler:
    """Samples for the rows of a persistent batch.

    What a row needs is decided when it starts; a step costs host time when the batch changed, and device time for the
    features that its rows use. A plain greedy batch is one op. Nothing here waits for the device.

    The order is vLLM's: log-probabilities (of the model's own logits), allowed ids, bad words, min tokens, logit bias,
    penalties, temperature, min-p, top-k, top-p. Tokens that are equally likely are ordered by id, the lowest first.

    Args:
        max_rows: rows of the persistent batch.
        vocab_size: columns of the logits.
        device: where the logits are.
        ops: kernels.
    """

    def __init__(self, max_rows: int, vocab_size: int, device: Device, ops: OpTable) -> None:
        self._device, self._ops = device, ops
        self._vocab_size = vocab_size
        self._upload = Uploads(device)
        self._rows = Rows(max_rows, vocab_size)
        self._penalties = Penalties(vocab_size, device.torch_device, self._upload, ops)
        self._words = BadWords(vocab_size, device.torch_device, self._upload)
        self._batch: _Batch | None = None

    @torch.inference_mode()
    def start(self, start: RowStart) -> None:
        """Give a row to a sequence, new or resumed; ``start.params`` has been validated against the vocabulary."""
        self.stop(start.row)
        self._rows.start(start)
        flags = self._rows.flags[start.row]
        if flags & PENALTIES:
            self._penalties.start(start)
        if flags & WORDS:
            self._words.start(start)

    @torch.inference_mode()
    def stop(self, row: int) -> None:
        """Take a row back; nothing happens if it is free."""
        self._batch = None
        self._rows.stop(row)
        self._penalties.stop(row)
        self._words.stop(row)

    @torch.inference_mode()
    def sample(self, logits: torch.Tensor, rows: Int32s, num_tokens: Int32s) -> Sampled:
        """Sample one token for each of ``rows`` and take it into account for the next one.

        Args:
            logits: [n, vocab] on the device; overwritten.
            rows: int32[n], started rows, each once.
            num_tokens: int32[n], the sequences' lengths before the new token.
        """
        kind = self.kind(rows)
        if kind == GREEDY:
            return Sampled(*self._ops.best_token(logits))
        if kind is None:
            logits = logits.float().contiguous()
        batch = self._prepared(rows)
        raw = [logits.index_select(0, group.index) for group in batch.logprobs]
        self._process(logits, batch, num_tokens)
        likely, best = self._ops.best_token(logits)
        tokens = likely
        if batch.draws:
            drawn = batch.draws.into(likely, logits, num_tokens, self._ops)
            tokens = torch.where(torch.isfinite(best), drawn, likely)
        if batch.penalties is not None:
            self._penalties.count(tokens, batch.penalties)
        if batch.words is not None:
            self._words.push(tokens, batch.words)
        copies = [
            (group, LogprobsCopy.start(self._device, *group.compute(own, tokens, self._ops)))
            for group, own in zip(batch.logprobs, raw, strict=True)
        ]
        return Sampled(tokens, best, copies)

    def kind(self, rows: Int32s) -> SamplingKind | None:
        """Return how a prepared step can sample for started ``rows``; ``None`` when only :meth:`sample` can."""
        return kind_of(self._rows, rows)

    def fill(self, fields: StepFields[np.ndarray[Any, Any]], rows: Int32s, num_tokens: Int32s) -> None:
        """Write what ``rows`` of a kind that draws need into a prepared step's fields; see ``kinds.fill``."""
        fill(fields, self._rows, rows, num_tokens)

    def choose(
        self, logits: torch.Tensor, fields: StepFields[torch.Tensor], kind: SamplingKind
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return tokens and largest logits inside a prepared step; the same as :meth:`sample` gives for these rows."""
        return choose(logits, fields, kind, self._ops)

    @torch.inference_mode()
    def prompt_logprobs(
        self, logits: Callable[[torch.Tensor], torch.Tensor], hidden: torch.Tensor, token_ids: torch.Tensor, k: int
    ) -> Callable[[], TokenLogprobs]:
        """Start computing the log-probabilities of known tokens; the returned function waits for them.

        Logits are made and used in parts of at most 64 MiB.

        Args:
            logits: hidden [t, H] -> float32 [t, vocab].
            hidden: [t, H], what the model says after the token before each of ``token_ids``.
            token_ids: int64[t] on the device.
            k: most likely tokens to report beside each; -1 is all.
        """
        k = self._vocab_size if k < 0 else min(k, self._vocab_size)
        step = max(1, CHUNK // self._vocab_size)
        return prompt_logprobs(logits, hidden, token_ids, k, step=step, device=self._device, ops=self._ops)

    def _process(self, logits: torch.Tensor, batch: _Batch, num_tokens: Int32s) -> None:
        if batch.masks is not None:
            batch.masks.restrict(logits)
        if batch.words is not None:
            self._words.apply(logits, batch.words)
        batch.stops.apply(logits, num_tokens)
        if batch.masks is not None:
            batch.masks.add_bias(logits)
        if batch.penalties is not None:
            self._penalties.apply(logits, batch.penalties)

    def _prepared(self, rows: Int32s) -> _Batch:
        key = rows.tobytes()
        if self._batch is None or self._batch.key != key:
            self._batch = _Batch(
                key=key,
                masks=masks(self._rows, rows, self._vocab_size, self._upload),
                words=self._words.group(self._rows, rows),
                stops=StopMask(self._rows, rows, self._vocab_size, self._upload),
                penalties=self._penalties.group(self._rows, rows),
                draws=Draws(self._rows, rows, self._upload),
                logprobs=logprob_groups(self._rows, rows, self._upload),
            )
        return self._batch
