"""One sequence on its way out: tokens to text, stop strings, what was shown already."""

from __future__ import annotations

from collections.abc import Sequence as Tokens

from hardpoint.engine.messages import Finish
from hardpoint.outputs import CompletionOutput, SampleLogprobs
from hardpoint.params import SamplingParams
from hardpoint.text.detokenizer import Detokenizer
from hardpoint.text.stop import StopScanner


class Sequence:
    """The state of one sequence.

    Attributes:
        index: its number in the request.
        handle: its number in the engine.
        token_ids: all tokens so far; an end or stop token is among them.
        finish_reason: ``None`` while it runs.
        stop_reason: the stop string or stop token that ended it.
        logprobs: for all tokens so far, when asked for.
        cumulative_logprob: their sum over the sampled tokens.
    """

    __slots__ = (
        "_detokenizer",
        "_end_shown",
        "_keeps_stop",
        "_min_tokens",
        "_scanner",
        "_shown_text",
        "_shown_tokens",
        "_text",
        "cumulative_logprob",
        "finish_reason",
        "handle",
        "index",
        "logprobs",
        "stop_reason",
        "token_ids",
    )

    def __init__(
        self,
        index: int,
        handle: int,
        params: SamplingParams,
        detokenizer: Detokenizer | None,
        scanner: StopScanner | None,
    ) -> None:
        """Start empty; without a ``detokenizer`` there is no text."""
        self.index = index
        self.handle = handle
        self.token_ids: list[int] = []
        self.finish_reason: str | None = None
        self.stop_reason: int | str | None = None
        wanted = params.logprobs is not None or params.logprob_token_ids is not None
        self.logprobs: SampleLogprobs | None = [] if wanted else None
        self.cumulative_logprob: float | None = 0.0 if wanted else None
        self._detokenizer = detokenizer
        self._scanner = scanner
        self._min_tokens = params.min_tokens
        self._keeps_stop = params.include_stop_str_in_output
        self._text: list[str] = []
        self._shown_text = 0
        self._shown_tokens = 0
        self._end_shown = False

    def due(self, interval: int) -> bool:
        """Return whether there is news worth an output: the first token, ``interval`` new ones, or the end."""
        if self.finish_reason is not None:
            return not self._end_shown
        new = len(self.token_ids) - self._shown_tokens
        return new >= interval or (new > 0 and self._shown_tokens == 0)

    def push(self, tokens: Tokens[int], finish: Finish | None) -> bool:
        """Take new tokens and, with the last ones, the engine's reason to end.

        Returns:
            Whether a stop string ended the sequence here, so that the engine must be told; tokens after it are dropped.
        """
        if self._detokenizer is None:
            self.token_ids.extend(tokens)
        elif self._push_text(tokens, finish):
            # The engine may have found the end with the very same token.
            return finish is None
        if finish is not None:
            self._finish(finish)
        return False

    def _push_text(self, tokens: Tokens[int], finish: Finish | None) -> bool:
        assert self._detokenizer is not None
        # The engine's stop token is not text, unless the caller wants it kept.
        ends = finish is not None and finish.reason == "stop" and not self._keeps_stop
        silent = len(tokens) - 1 if ends else len(tokens)
        for position, token in enumerate(tokens):
            self.token_ids.append(token)
            if position < silent and self._show(self._detokenizer.push(token)):
                return True
        return finish is not None and self._show(self._detokenizer.flush())

    def _show(self, text: str) -> bool:
        """Add text; return whether a stop string was completed by it."""
        if self._scanner is None or not text:
            if text:
                self._text.append(text)
            return False
        shown, stop = self._scanner.feed(text, armed=len(self.token_ids) > self._min_tokens)
        if shown:
            self._text.append(shown)
        if stop is None:
            return False
        self.finish_reason, self.stop_reason = "stop", stop
        return True

    def _finish(self, finish: Finish) -> None:
        if self._scanner is not None and (held := self._scanner.flush()):
            self._text.append(held)
        self.finish_reason = finish.reason
        self.stop_reason = finish.stop

    def add_logprobs(self, found: SampleLogprobs) -> None:
        """Append the log-probabilities of the tokens taken last; those of dropped tokens are ignored."""
        if self.logprobs is None or self.cumulative_logprob is None:
            return
        first = len(self.logprobs)
        for token, position in zip(self.token_ids[first:], found, strict=False):
            self.logprobs.append(position)
            self.cumulative_logprob += position[token].logprob

    def output(self, *, delta: bool) -> CompletionOutput:
        """Return what is new since the last output, or everything so far."""
        first, self._shown_tokens = self._shown_tokens, len(self.token_ids)
        parts, self._shown_text = self._text[self._shown_text :], len(self._text)
        if not delta:
            self._text = ["".join(self._text)]
            parts, first, self._shown_text = self._text, 0, 1
        self._end_shown = self.finish_reason is not None
        return CompletionOutput(
            index=self.index,
            text="".join(parts),
            token_ids=self.token_ids[first:],
            cumulative_logprob=self.cumulative_logprob,
            logprobs=None if self.logprobs is None else self.logprobs[first:],
            finish_reason=self.finish_reason,
            stop_reason=self.stop_reason,
        )
