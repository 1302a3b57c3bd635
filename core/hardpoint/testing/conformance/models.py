"""Whole models against ``transformers``: how far log-probabilities are off, and whether greedy tokens are the reference's.

A platform passes when its error is of the size of the error that ``transformers`` itself makes in the same element type,
and when a greedy token differs from the reference's best one only where the reference's own best tokens are closer than
that type resolves. Such tokens are counted, not waved through.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from hardpoint.llm import LLM
from hardpoint.outputs import RequestOutput
from hardpoint.params import SamplingParams

#: How many times the error of ``transformers`` in the same type a platform may make.
FACTOR: Final = 1.5
#: Largest error in float32, where the reference makes none.
FLOAT32_TOLERANCE: Final = 2e-3
#: Share of greedy tokens that may be off beyond resolution where a router chose other experts on a near tie.
REROUTED: Final = 0.05
#: A model with the head size and the row widths of real ones, small enough for a reference on the CPU.
WIDE: Final[dict[str, Any]] = {
    "vocab_size": 1024,
    "hidden_size": 512,
    "intermediate_size": 1024,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 128,
    "max_position_embeddings": 512,
}
#: Rows of experts are as wide as the tensor cores want them.
WIDE_MOE: Final[dict[str, Any]] = {"moe_intermediate_size": 256, "shared_expert_intermediate_size": 256}


@dataclass(frozen=True, slots=True, kw_only=True)
class Errors:
    """Errors of log-probabilities, per position the root of the mean square over the vocabulary.

    Attributes:
        mine, theirs: [n] of the engine, and of ``transformers`` in the same element type.
    """

    mine: np.ndarray[Any, np.dtype[np.float64]]
    theirs: np.ndarray[Any, np.dtype[np.float64]]

    @property
    def ratio(self) -> float:
        """The engine's median error over that of ``transformers``; a router that turns elsewhere moves no median."""
        return float(np.median(self.mine) / max(float(np.median(self.theirs)), 1e-12))

    def __str__(self) -> str:
        mine, theirs = (f"{np.median(e):.1e} (worst {e.max():.1e})" for e in (self.mine, self.theirs))
        return f"error {mine}" + (f", of transformers {theirs}, ratio {self.ratio:.2f}" if self.theirs.any() else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Greedy tokens held against the reference's.

    Attributes:
        tokens: how many were compared.
        close: of them, those that are not the reference's best but within what the element type resolves.
        wrong: those that are further off, as messages.
    """

    tokens: int
    close: int
    wrong: tuple[str, ...] = ()

    def __add__(self, other: Verdict) -> Verdict:
        return Verdict(
            tokens=self.tokens + other.tokens, close=self.close + other.close, wrong=self.wrong + other.wrong
        )

    def __str__(self) -> str:
        first = f"; first: {self.wrong[0]}" if self.wrong else ""
        return f"{self.tokens} tokens, {self.close} within resolution, {len(self.wrong)} wrong{first}"


class Reference:
    """A checkpoint in ``transformers``, eager: in float32 on weights rounded to ``dtype``, and in ``dtype``.

    Args:
        folder: of the checkpoint.
        dtype: element type of the engine that is judged.
        device: where the reference runs.
    """

    def __init__(self, folder: Path | str, dtype: str = "bfloat16", device: str = "cpu") -> None:
        from transformers import AutoModelForCausalLM

        self._device = torch.device(device)
        self._dtype: torch.dtype = getattr(torch, dtype)
        self._exact: Any = AutoModelForCausalLM.from_pretrained(
            folder, attn_implementation="eager", dtype=torch.float32
        )
        self._rounded: Any = None
        if self._dtype != torch.float32:
            self._rounded = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=self._dtype)
            self._rounded.eval().to(self._device)
            with torch.no_grad():
                for parameter in self._exact.parameters():
                    parameter.copy_(parameter.to(self._dtype))
        self._exact.eval().to(self._device)
        # The same tokens are asked for again and again: settings that change nothing give the same answers.
        self._known: dict[tuple[int, ...], tuple[torch.Tensor, torch.Tensor]] = {}

    def logits(self, tokens: Sequence[int]) -> torch.Tensor:
        """Return float32 [t, vocab] behind each of ``tokens``."""
        return self._both(tokens)[0]

    def noise(self, tokens: Sequence[int]) -> torch.Tensor:
        """Return float32 [t, vocab]: by how much ``transformers`` is off in the element type itself."""
        return self._both(tokens)[1]

    def errors(self, outputs: Sequence[RequestOutput]) -> Errors:
        """Hold the log-probabilities of requests that asked for all of them against the reference's."""
        mine, theirs = [], []
        for output in outputs:
            completion = output.outputs[0]
            tokens = [*output.prompt_token_ids, *completion.token_ids]
            logits, noise = self._both(tokens[:-1])
            exact, rough = logits.log_softmax(-1), (logits + noise).log_softmax(-1)
            rows = [*(output.prompt_logprobs or [])[1:], *(completion.logprobs or [])]
            got = torch.tensor([[row[i].logprob for i in range(exact.shape[1])] for row in rows if row is not None])
            if got.shape != exact.shape:
                raise ValueError(
                    f"{tuple(got.shape)} log-probabilities came, {tuple(exact.shape)} are needed; ask for all"
                )
            mine.append(_spread(got - exact))
            theirs.append(_spread(rough - exact))
        return Errors(mine=np.concatenate(mine), theirs=np.concatenate(theirs))

    def judge(self, prompt: Sequence[int], output: Sequence[int]) -> Verdict:
        """Hold greedy tokens against the best ones behind the same tokens.

        A token passes as close when the reference prefers its own best by less than one unit in the last place of the
        logit, or by less than twice what ``transformers`` is off at that position in the same element type.
        """
        tokens = [*prompt, *output]
        logits, off = (each[len(prompt) - 1 : -1] for each in self._both(tokens))
        noise = off.abs().amax(-1)
        chosen = logits.gather(1, torch.tensor(list(output)).unsqueeze(1)).squeeze(1)
        best, token = logits.max(-1)
        # float32 sums in another order are off by many units in the last place.
        units = 1 if self._dtype != torch.float32 else 64
        resolved = torch.maximum(best.abs() * torch.finfo(self._dtype).eps * units, 2 * noise)
        gap = best - chosen
        wrong = [
            f"token {i} of the output is {output[i]}, the reference's is {int(token[i])}, "
            f"{float(gap[i]):.4f} ahead ({float(resolved[i]):.4f} are resolved)"
            for i in torch.nonzero(gap > resolved).flatten().tolist()
        ]
        return Verdict(tokens=len(output), close=int((gap > 0).sum()) - len(wrong), wrong=tuple(wrong))

    def judge_all(self, prompts: Sequence[Sequence[int]], outputs: Sequence[Sequence[int]]) -> Verdict:
        """Return the sum of :meth:`judge` over several requests."""
        verdict = Verdict(tokens=0, close=0)
        for prompt, output in zip(prompts, outputs, strict=True):
            verdict += self.judge(prompt, output)
        return verdict

    def _both(self, tokens: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        key = tuple(tokens)
        if key not in self._known:
            exact = self._run(self._exact, tokens)
            rounded = exact if self._rounded is None else self._run(self._rounded, tokens)
            self._known[key] = exact, rounded - exact
        return self._known[key]

    @torch.no_grad()
    def _run(self, model: Any, tokens: Sequence[int]) -> torch.Tensor:
        logits: torch.Tensor = model(torch.tensor([list(tokens)], device=self._device), use_cache=False).logits[0]
        return logits.float().cpu()


def all_logprobs(llm: LLM, prompts: Sequence[Sequence[int]], max_tokens: int) -> list[RequestOutput]:
    """Run greedy requests that report every log-probability, of the prompts too."""
    params = SamplingParams(
        temperature=0.0, max_tokens=max_tokens, ignore_eos=True, detokenize=False, logprobs=-1, prompt_logprobs=-1
    )
    return llm.generate([{"prompt_token_ids": list(p)} for p in prompts], params, use_tqdm=False)


def greedy(llm: LLM, prompts: Sequence[Sequence[int]], max_tokens: int) -> list[list[int]]:
    """Return the greedy tokens of prompts that are given at once."""
    params = SamplingParams(temperature=0.0, max_tokens=max_tokens, ignore_eos=True, detokenize=False)
    done = llm.generate([{"prompt_token_ids": list(p)} for p in prompts], params, use_tqdm=False)
    return [list(output.outputs[0].token_ids) for output in done]


def check_errors(errors: Errors, dtype: str) -> None:
    """Raise AssertionError when the engine's errors are larger than those of ``transformers`` explain."""
    if dtype == "float32":
        assert errors.mine.max() <= FLOAT32_TOLERANCE, str(errors)
    else:
        assert errors.ratio <= FACTOR, str(errors)


def check_verdict(verdict: Verdict, *, routed: bool) -> None:
    """Raise AssertionError for wrong tokens; ``routed`` models may have a few, see :data:`REROUTED`."""
    assert len(verdict.wrong) <= (REROUTED * verdict.tokens if routed else 0), str(verdict)


def prompts(vocab_size: int, count: int = 9, longest: int = 70, seed: int = 0) -> list[list[int]]:
    """Return prompts of 1 to ``longest`` tokens; every third one extends the one before it."""
    rng = np.random.default_rng(seed)
    made: list[list[int]] = []
    for i in range(count):
        body = rng.integers(3, vocab_size, size=int(rng.integers(1, longest * 2 // 3))).tolist()
        made.append(made[-1] + body[: longest // 3] if i % 3 == 2 else body)
    return made


def _spread(difference: torch.Tensor) -> np.ndarray[Any, np.dtype[np.float64]]:
    return difference.double().square().mean(-1).sqrt().numpy()
