"""From what an engine step gave to what callers get: text, stop strings, logprobs, deltas."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from hardpoint.contract.errors import RequestError, error_named
from hardpoint.engine.inputs import Prepared
from hardpoint.engine.logprobs import prompt_logprobs, sample_logprobs
from hardpoint.engine.messages import EngineOutputs, Finish, Logprobs
from hardpoint.engine.sequences import Sequence
from hardpoint.outputs import PromptLogprobs, RequestMetrics, RequestOutput
from hardpoint.params import SamplingParams
from hardpoint.text.stop import StopAutomaton, StopScanner
from hardpoint.text.tokenizer import Tokenizer


@dataclass(slots=True)
class Processed:
    """What one step's outputs became.

    Attributes:
        outputs: of requests with news.
        errors: (request id, error) for requests that failed; they are over.
        abort: handles that the engine must be told to end: a stop string ended them here, or their request failed.
    """

    outputs: list[RequestOutput] = field(default_factory=list)
    errors: list[tuple[str, Exception]] = field(default_factory=list)
    abort: list[int] = field(default_factory=list)


class _Request:
    """A live request and its sequences."""

    __slots__ = (
        "cached",
        "final_only",
        "id",
        "live",
        "metrics",
        "params",
        "prompt",
        "prompt_ids",
        "prompt_logprobs",
        "sequences",
    )

    def __init__(self, prepared: Prepared) -> None:
        request = prepared.request
        self.id = request.request_id
        self.params: SamplingParams = request.params
        self.prompt = prepared.prompt
        self.prompt_ids: list[int] = request.token_ids.tolist()
        self.prompt_logprobs: PromptLogprobs | None = None
        self.cached: int | None = None
        self.metrics = RequestMetrics(arrival_time=request.arrival)
        self.final_only = request.params.output_kind == "final_only"
        self.sequences: list[Sequence] = []
        self.live = len(request.handles)


class OutputProcessor:
    """Keeps the state of all live requests of one client. Called from one thread; ``add`` from any, under the GIL.

    A request that cannot be turned into output (a tokenizer that fails on its tokens, say) ends with an error of its own.
    """

    def __init__(self, tokenizer: Tokenizer | None) -> None:
        """Make text with ``tokenizer``; without one there is none."""
        self._tokenizer = tokenizer
        self._sequences: dict[int, tuple[_Request, Sequence]] = {}
        self._requests: dict[str, _Request] = {}

    def __len__(self) -> int:
        """Return the number of live requests."""
        return len(self._requests)

    def __contains__(self, request_id: str) -> bool:
        """Return whether the request is live."""
        return request_id in self._requests

    def add(self, prepared: Prepared) -> None:
        """Register a request before it is handed to the engine.

        Raises:
            RequestError: when a live request has its id.
        """
        request = prepared.request
        if request.request_id in self._requests:
            raise RequestError(
                f"request id {request.request_id!r} belongs to a request that is still running; choose another",
                field="request_id",
            )
        state = _Request(prepared)
        state.sequences = self._make_sequences(request.handles, state.params, state.prompt_ids)
        self._requests[state.id] = state
        for sequence in state.sequences:
            self._sequences[sequence.handle] = (state, sequence)

    def _make_sequences(self, handles: tuple[int, ...], params: SamplingParams, prompt: list[int]) -> list[Sequence]:
        tokenizer = self._tokenizer if params.detokenize else None
        stops = params.stop_strings
        automaton = StopAutomaton(stops) if stops else None
        return [
            Sequence(
                index,
                handle,
                params,
                None
                if tokenizer is None
                else tokenizer.detokenizer(prompt, skip_special_tokens=params.skip_special_tokens),
                None if automaton is None else StopScanner(automaton, include=params.include_stop_str_in_output),
            )
            for index, handle in enumerate(handles)
        ]

    def forget(self, request_ids: Iterable[str]) -> list[int]:
        """Drop requests whose caller has gone; return the handles that the engine must end."""
        handles: list[int] = []
        for request_id in request_ids:
            request = self._requests.get(request_id)
            if request is not None:
                handles += self._drop(request)
        return handles

    def handles(self, request_id: str) -> list[int]:
        """Return the handles of a request that still run; empty for one that is not live."""
        request = self._requests.get(request_id)
        if request is None:
            return []
        return [sequence.handle for sequence in request.sequences if sequence.finish_reason is None]

    def clear(self) -> list[str]:
        """Drop everything and return the ids of the requests that were live; the engine is gone."""
        ids = list(self._requests)
        self._requests.clear()
        self._sequences.clear()
        return ids

    def process(self, outputs: EngineOutputs) -> Processed:
        """Turn one step's outputs into what callers get."""
        now = time.monotonic()
        processed = Processed()
        touched: dict[_Request, Exception | None] = {}
        self._take_prompts(outputs)
        logprobs = {found.handle: found for found in outputs.logprobs}
        sequences = self._sequences
        for handle, tokens, finish in _events(outputs):
            known = sequences.get(handle)
            if known is None:
                continue
            request, sequence = known
            try:
                if self._advance(request, sequence, tokens, finish, logprobs.get(handle) if logprobs else None, now):
                    processed.abort.append(handle)
            except Exception as error:
                touched[request] = error
                continue
            if sequence.finish_reason is not None or not request.final_only:
                touched.setdefault(request)
        for request, failure in touched.items():
            if failure is None:
                self._emit(request, now, processed)
            else:
                processed.abort += self._drop(request)
                processed.errors.append((request.id, failure))
        return processed

    def _take_prompts(self, outputs: EngineOutputs) -> None:
        for handle, cached in outputs.cached:
            if (known := self._sequences.get(handle)) is not None and known[0].cached is None:
                known[0].cached = cached
        for found in outputs.prompt_logprobs:
            known = self._sequences.get(found.handle)
            if known is not None and known[0].prompt_logprobs is None:
                known[0].prompt_logprobs = prompt_logprobs(found, self._tokenizer)

    def _advance(
        self,
        request: _Request,
        sequence: Sequence,
        tokens: list[int],
        finish: Finish | None,
        found: Logprobs | None,
        now: float,
    ) -> bool:
        """Give a sequence its tokens; return whether a stop string ended it here."""
        if finish is not None and finish.reason == "error":
            raise error_named(finish.error_type or "RequestError", finish.error or "the engine gave no reason")
        before = len(sequence.token_ids)
        stopped = sequence.push(tokens, finish)
        if found is not None:
            # Log-probabilities of chosen ids come in the order asked for, without ranks.
            ranked = request.params.logprob_token_ids is None
            tokenizer = self._tokenizer if request.params.detokenize else None
            sequence.add_logprobs(sample_logprobs(found, tokenizer, ranked=ranked))
        metrics = request.metrics
        if tokens:
            metrics.num_generation_tokens += len(sequence.token_ids) - before
            metrics.last_token_time = now
            if metrics.first_token_time is None:
                metrics.first_token_time = now
        if sequence.finish_reason is not None:
            self._sequences.pop(sequence.handle, None)
            request.live -= 1
        return stopped

    def _emit(self, request: _Request, now: float, processed: Processed) -> None:
        finished = request.live == 0
        if finished:
            request.metrics.finished_time = now
            del self._requests[request.id]
        elif request.final_only:
            return
        delta = request.params.output_kind == "delta"
        interval = request.params.stream_interval
        ready = [sequence for sequence in request.sequences if sequence.due(interval)]
        if not ready and not finished:
            return
        chosen = ready if delta else request.sequences
        processed.outputs.append(
            RequestOutput(
                request_id=request.id,
                prompt=request.prompt,
                prompt_token_ids=request.prompt_ids,
                prompt_logprobs=request.prompt_logprobs,
                outputs=[sequence.output(delta=delta) for sequence in chosen],
                finished=finished,
                metrics=request.metrics,
                num_cached_tokens=request.cached,
            )
        )
        if delta:
            request.prompt_logprobs = None

    def _drop(self, request: _Request) -> list[int]:
        self._requests.pop(request.id, None)
        handles = [sequence.handle for sequence in request.sequences if sequence.finish_reason is None]
        for handle in handles:
            self._sequences.pop(handle, None)
        return handles


def _events(outputs: EngineOutputs) -> Iterator[tuple[int, list[int], Finish | None]]:
    """Yield (handle, new tokens, finish) for every sequence of a step."""
    finishes = {finish.handle: finish for finish in outputs.finished}
    tokens, offset = outputs.tokens.tolist(), 0
    for handle, count in zip(outputs.handles.tolist(), outputs.counts.tolist(), strict=True):
        end = offset + count
        yield handle, tokens[offset:end], finishes.pop(handle, None) if finishes else None
        offset = end
    for handle, finish in finishes.items():
        yield handle, [], finish
