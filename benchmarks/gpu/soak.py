"""Mixed load with aborts for a while, then the accounts: blocks, device memory, tokens.

    python benchmarks/gpu/soak.py --seconds 1200 --platform cuda
    python benchmarks/gpu/soak.py --seconds 60 --platform cpu --dtype float32

A small random model behind the asynchronous engine, requests in bursts: prompts of all lengths, shared prefixes, greedy and
sampled, several sequences, stop tokens, penalties, log-probabilities; some are aborted before their first token, some midway.
At the end: no block in use and none lost, no growth of device memory or of the process beyond noise, the engine still
answers, and every greedy answer equals that of the same prompt alone (in 16 bits: or differs from the reference only where
its own two best tokens are closer than the type resolves, counted). Exit code 1 when one of these does not hold.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from arguments import add_settings, settings_of

from hardpoint import LLM, AsyncEngine, RequestOutput, SamplingParams
from hardpoint.testing.conformance import models
from hardpoint.testing.tiny_models import make_tiny

MAX_MODEL_LEN = 384
#: Greedy prompts that come again and again; each is also run alone.
KNOWN = 24
#: Growth per minute, in bytes, above which memory is said to leak.
LEAK = 4 << 20


@dataclass
class Account:
    """What happened.

    Attributes:
        kinds: requests by kind, and how they ended.
        greedy: known prompt -> the different answers that it got, each with how often.
        samples: (seconds, bytes in use on the device, bytes of the process).
        failures: what was wrong.
    """

    kinds: Counter[str] = field(default_factory=Counter)
    greedy: dict[int, Counter[tuple[int, ...]]] = field(default_factory=dict)
    samples: list[tuple[float, int, int]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    tokens: int = 0


class Load:
    """Random requests against one engine.

    Args:
        engine: under load.
        known: greedy prompts with known answers.
        vocab_size: ids are below this.
        seed: of everything random.
    """

    def __init__(self, engine: AsyncEngine, known: Sequence[Sequence[int]], vocab_size: int, seed: int) -> None:
        self._engine = engine
        self._known = known
        self._vocab = vocab_size
        self._numbers = np.random.default_rng(seed)
        self._count = 0
        self.account = Account()

    async def run(self, seconds: float, width: int, sample: Callable[[], tuple[int, int]]) -> None:
        """Keep up to ``width`` requests in flight, in bursts, until the time is over; then wait for all of them."""
        begin = time.monotonic()
        running: set[asyncio.Task[None]] = set()
        next_sample = 0.0
        while (now := time.monotonic() - begin) < seconds:
            if now >= next_sample:
                self.account.samples.append((now, *sample()))
                next_sample = now + max(0.5, seconds / 200)
            burst = int(self._numbers.integers(1, max(2, width // 2)))
            for _ in range(min(burst, width - len(running))):
                running.add(asyncio.create_task(self._one()))
            if running:
                done, running = await asyncio.wait(running, timeout=0.02, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
            if self._numbers.random() < 0.02:
                # A lull: the batch drains to few rows and fills again.
                await asyncio.sleep(float(self._numbers.random()) * 0.2)
        if running:
            await asyncio.gather(*running)

    async def _one(self) -> None:
        self._count += 1
        name, numbers = f"soak-{self._count}", self._numbers
        kind = str(
            numbers.choice(
                ["known", "greedy", "sampled", "several", "logprobs", "stop"], p=[0.4, 0.1, 0.2, 0.1, 0.1, 0.1]
            )
        )
        which = int(numbers.integers(len(self._known)))
        prompt = list(self._known[which]) if kind == "known" else self._prompt()
        params = self._params(kind, len(prompt))
        abort_after = int(numbers.integers(0, 30)) if numbers.random() < 0.3 else None
        last = None
        try:
            stream = self._engine.generate({"prompt_token_ids": prompt}, params, request_id=name)
            if abort_after is not None and abort_after % 5 == 0:
                # A client that goes away: its stream is closed while it waits for the next output.
                with contextlib.suppress(TimeoutError):
                    last = await asyncio.wait_for(_drain(stream), float(numbers.random()) * 0.2)
                if last is None:
                    self.account.kinds[f"{kind}: abandoned"] += 1
                    return
            async for output in stream:
                last = output
                seen = sum(len(completion.token_ids) for completion in output.outputs)
                if abort_after is not None and seen >= abort_after and not output.finished:
                    await self._engine.abort(name)
        except Exception as error:
            self.account.kinds[f"{kind}: failed"] += 1
            self.account.failures.append(f"{name} ({kind}, {len(prompt)} tokens): {type(error).__name__}: {error}")
            return
        aborted = last is None or any(completion.finish_reason == "abort" for completion in last.outputs)
        self.account.kinds[f"{kind}: {'aborted' if aborted else 'finished'}"] += 1
        if last is None:
            return
        self.account.tokens += sum(len(completion.token_ids) for completion in last.outputs)
        if not aborted:
            self._check(name, kind, params, last)
        if kind == "known":
            # What an aborted request gave before it ended must be the beginning of the right answer.
            tokens = tuple(last.outputs[0].token_ids)
            self.account.greedy.setdefault(which, Counter())[tokens] += 1

    def _check(self, name: str, kind: str, params: SamplingParams, output: Any) -> None:
        for completion in output.outputs:
            length = len(completion.token_ids)
            ended = completion.finish_reason == "stop" and kind == "stop"
            if length != params.max_tokens and not ended:
                self.account.failures.append(
                    f"{name} ({kind}): {length} of {params.max_tokens} tokens, {completion.finish_reason}"
                )
            if any(not 0 <= token < self._vocab for token in completion.token_ids):
                self.account.failures.append(f"{name} ({kind}): a token outside the vocabulary")

    def _prompt(self) -> list[int]:
        numbers = self._numbers
        length = int(min(MAX_MODEL_LEN - 80, 1 + numbers.exponential(60)))
        own: list[int] = numbers.integers(3, self._vocab, size=length).tolist()
        if numbers.random() < 0.4:
            # Begins like another prompt.
            head = self._known[int(numbers.integers(len(self._known)))]
            return [*head, *own][: MAX_MODEL_LEN - 80]
        return own

    def _params(self, kind: str, prompt_tokens: int) -> SamplingParams:
        numbers = self._numbers
        given: dict[str, Any] = {
            "temperature": 0.0,
            "max_tokens": int(numbers.integers(1, 64)),
            "ignore_eos": kind != "stop",
            "detokenize": False,
        }
        if kind == "known":
            given["max_tokens"] = 48
        elif kind in ("sampled", "several"):
            given |= {
                "temperature": float(numbers.uniform(0.3, 1.5)),
                "top_k": int(numbers.choice([0, 1, 20])),
                "top_p": float(numbers.choice([1.0, 0.9])),
                "min_p": float(numbers.choice([0.0, 0.05])),
                "seed": int(numbers.integers(1 << 30)) if numbers.random() < 0.5 else None,
                "n": 1 if kind == "sampled" else 3,
                "repetition_penalty": float(numbers.choice([1.0, 1.2])),
                "presence_penalty": float(numbers.choice([0.0, 0.5])),
            }
        elif kind == "logprobs":
            given |= {"logprobs": int(numbers.integers(0, 6)), "prompt_logprobs": 2 if numbers.random() < 0.3 else None}
        elif kind == "stop":
            given |= {"temperature": 1.0, "stop_token_ids": numbers.integers(3, self._vocab, size=40).tolist()}
        return SamplingParams(**given)


def slope(samples: Sequence[tuple[float, int, int]], column: int) -> float:
    """Return bytes per minute by which a column grows, by least squares over the later half of the samples."""
    late = samples[len(samples) // 2 :]
    if len(late) < 3:
        return 0.0
    times, values = np.array([s[0] for s in late]), np.array([s[column] for s in late], float)
    return float(np.polyfit(times, values, 1)[0]) * 60


def prefix_of(short: Sequence[int], long: Sequence[int]) -> bool:
    """Return whether ``long`` begins with ``short``."""
    return list(short) == list(long[: len(short)])


def soak(seconds: float, *, platform: str, dtype: str, width: int, seed: int, **settings: Any) -> dict[str, Any]:
    """Run the load and return the account as plain data; ``failures`` is empty when all held."""
    with tempfile.TemporaryDirectory() as root:
        # No end token: answers have the length that was asked for.
        folder = make_tiny("LlamaForCausalLM", Path(root) / "llama", seed=3, **{**models.WIDE, "num_hidden_layers": 2})
        known = models.prompts(models.WIDE["vocab_size"], KNOWN, longest=200, seed=seed)
        common = {
            "platform": platform,
            "dtype": dtype,
            "skip_tokenizer_init": True,
            "max_model_len": MAX_MODEL_LEN,
            **settings,
        }
        # Few enough blocks that requests are preempted under load.
        blocks = max(26, width * 3)
        with LLM(str(folder), num_blocks=blocks, **common) as llm:
            alone = [models.greedy(llm, [prompt], 48)[0] for prompt in known]
        account, stats, again = asyncio.run(
            _under_load(
                {"model": str(folder), "num_blocks": blocks, "max_num_seqs": width, **common}, known, seconds, seed
            )
        )
        failures = account.failures
        if again != alone[0] and dtype == "float32":
            failures.append("the engine's last answer is not its first")
        if stats["running"] or stats["waiting"] or stats["blocks_used"]:
            failures.append(
                f"left behind: {stats['running']} running, {stats['waiting']} waiting, {stats['blocks_used']} blocks"
            )
        growth = {"device": slope(account.samples, 1), "process": slope(account.samples, 2)}
        if growth["device"] > LEAK:
            failures.append(f"device memory grows by {growth['device'] / 2**20:.1f} MiB a minute")
        tokens = _judge(folder, dtype, known, alone, account, failures)
    return {
        "seconds": seconds,
        "platform": platform,
        "dtype": dtype,
        "requests": sum(account.kinds.values()),
        "kinds": dict(sorted(account.kinds.items())),
        "tokens": account.tokens,
        "steps": stats["steps"],
        "preemptions": stats["preemptions"],
        "prefix_hits": stats["prefix_hits"],
        "growth_mib_per_minute": {name: round(value / 2**20, 3) for name, value in growth.items()},
        **tokens,
        "failures": failures,
    }


def _judge(
    folder: Path,
    dtype: str,
    known: Sequence[Sequence[int]],
    alone: Sequence[Sequence[int]],
    account: Account,
    failures: list[str],
) -> dict[str, Any]:
    """Hold every different answer to a known prompt against that of the prompt alone, and against the reference."""
    reference = models.Reference(folder, dtype)
    equal = other = 0
    verdict = models.Verdict(tokens=0, close=0)
    for which, answers in account.greedy.items():
        for tokens, times in answers.items():
            if prefix_of(tokens, alone[which]):
                equal += times
                continue
            other += times
            if dtype == "float32":
                failures.append(f"known prompt {which}: {times} answers differ from that of the prompt alone")
            else:
                verdict += reference.judge(known[which], tokens)
    failures += verdict.wrong
    return {"greedy_equal": equal, "greedy_other": other, "greedy_other_verdict": str(verdict)}


async def _under_load(
    settings: dict[str, Any], known: Sequence[Sequence[int]], seconds: float, seed: int
) -> tuple[Account, dict[str, Any], list[int]]:
    """Return the account, the statistics when all was over, and a last answer to the first known prompt."""
    process = psutil.Process()

    def sample() -> tuple[int, int]:
        used = torch.cuda.memory_allocated() if torch.cuda.is_initialized() else 0
        return used, process.memory_info().rss

    async with AsyncEngine.of(in_process=True, **settings) as engine:
        load = Load(engine, known, models.WIDE["vocab_size"], seed)
        # What is prepared or cached on first use is no leak.
        await load.run(min(10.0, seconds / 5), settings["max_num_seqs"], sample)
        load.account.samples.clear()
        await load.run(seconds, settings["max_num_seqs"], sample)
        again = await _answer(engine, known[0])
        # The step in which the last abort takes effect is a step of its own.
        for _ in range(50):
            stats = engine.stats().to_dict()
            if not (stats["running"] or stats["waiting"] or stats["blocks_used"]):
                break
            await asyncio.sleep(0.1)
        await engine.check_health()
        return load.account, stats, again


async def _drain(stream: AsyncGenerator[RequestOutput, None]) -> RequestOutput | None:
    last = None
    async with contextlib.aclosing(stream):
        async for output in stream:
            last = output
    return last


async def _answer(engine: AsyncEngine, prompt: Sequence[int]) -> list[int]:
    params = SamplingParams(temperature=0.0, max_tokens=48, ignore_eos=True, detokenize=False)
    tokens: list[int] = []
    async for output in engine.generate({"prompt_token_ids": list(prompt)}, params, request_id="last"):
        tokens = list(output.outputs[0].token_ids)
    return tokens


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=1200.0)
    parser.add_argument("--platform", default="cuda")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--width", type=int, default=48, help="requests in flight")
    parser.add_argument("--seed", type=int, default=0)
    add_settings(parser)
    given = parser.parse_args(arguments)
    settings = settings_of(given.set)
    result = soak(
        given.seconds, platform=given.platform, dtype=given.dtype, width=given.width, seed=given.seed, **settings
    )
    print("SOAK " + json.dumps(result), flush=True)
    return 1 if result["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
