"""Beam search over an engine: one-token requests with log-probabilities, all beams of all prompts in one batch.

The prefix cache holds what the beams share, so that a step computes one token a beam. Scores are vLLM's: the sum of
log-probabilities over ``length ** length_penalty``, where the length counts the prompt and leaves out the end token.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from hardpoint.outputs import BeamSearchOutput, BeamSearchSequence, RequestOutput
from hardpoint.params import BeamSearchParams, SamplingParams

#: Runs one-token requests for these token sequences and returns their outputs in order.
Expand = Callable[[list[list[int]], SamplingParams], list[RequestOutput]]


@dataclass(slots=True)
class _Search:
    """One prompt's beams: those that grow and those that reached the end token."""

    prompt: list[int]
    growing: list[BeamSearchSequence]
    completed: list[BeamSearchSequence] = field(default_factory=list)


class BeamSearch:
    """Searches with the same parameters for any number of prompts."""

    def __init__(
        self, params: BeamSearchParams, expand: Expand, *, eos_token_ids: Collection[int], max_model_len: int
    ) -> None:
        """Search with ``expand``; sequences end at ``eos_token_ids`` or when the context is full."""
        self._params = params
        self._expand = expand
        self._eos = frozenset(eos_token_ids)
        self._max_model_len = max_model_len
        self._request = SamplingParams(
            max_tokens=1,
            temperature=params.temperature,
            logprobs=2 * params.beam_width,
            detokenize=False,
            ignore_eos=True,
            output_kind="final_only",
        )

    def run(self, prompts: Sequence[list[int]]) -> list[BeamSearchOutput]:
        """Return the ``beam_width`` best sequences of each prompt, without text."""
        searches = [_Search(prompt, [BeamSearchSequence(tokens=prompt, logprobs=[])]) for prompt in prompts]
        for _ in range(self._params.max_tokens):
            if not self._step(searches):
                break
        return [self._result(search) for search in searches]

    def _step(self, searches: list[_Search]) -> bool:
        """Grow every beam by a token; return whether any grew."""
        beams = [
            (search, beam) for search in searches for beam in search.growing if len(beam.tokens) < self._max_model_len
        ]
        if not beams:
            return False
        outputs = self._expand([beam.tokens for _, beam in beams], self._request)
        grown: dict[int, list[BeamSearchSequence]] = {id(search): [] for search, _ in beams}
        for (search, beam), output in zip(beams, outputs, strict=True):
            grown[id(search)] += self._children(search, beam, output)
        for search in searches:
            if id(search) in grown:
                best = sorted(grown[id(search)], key=self._score, reverse=True)
                search.growing = best[: self._params.beam_width]
        return True

    def _children(self, search: _Search, beam: BeamSearchSequence, output: RequestOutput) -> list[BeamSearchSequence]:
        candidates = (output.outputs[0].logprobs or [{}])[0]
        children = []
        for token, found in candidates.items():
            child = BeamSearchSequence(
                tokens=[*beam.tokens, token],
                logprobs=[*beam.logprobs, candidates],
                cum_logprob=beam.cum_logprob + found.logprob,
            )
            if token in self._eos and not self._params.ignore_eos:
                child.finish_reason = "stop"
                search.completed.append(child)
            else:
                children.append(child)
        return children

    def _result(self, search: _Search) -> BeamSearchOutput:
        for beam in search.growing:
            beam.finish_reason = "length"
        beams = sorted([*search.completed, *search.growing], key=self._score, reverse=True)
        return BeamSearchOutput(sequences=beams[: self._params.beam_width])

    def _score(self, beam: BeamSearchSequence) -> float:
        length = len(beam.tokens)
        if beam.tokens[-1] in self._eos:
            length -= 1
        score: float = beam.cum_logprob / max(length, 1) ** self._params.length_penalty
        return score
