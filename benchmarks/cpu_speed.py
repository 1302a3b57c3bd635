"""Tokens per second on CPU, Hardpoint beside ``transformers``, in one run on one machine.

    python benchmarks/cpu_speed.py                      # Qwen3-0.6B's shape, float32 and bfloat16
    python benchmarks/cpu_speed.py --shape tiny         # seconds, to see that it works

Weights are random, prompts are random token ids, nothing ends early, decoding is greedy. Both engines hold the same shape
in the same process; their repetitions alternate, so that what else the machine does meets both. Decode is measured between
the first and the last token of a batch whose prompts were computed before, prefill from the call to its only token.
"""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import json
import os
import platform
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

SHAPES: dict[str, dict[str, Any]] = {
    "qwen3-0.6b": {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "hidden_size": 1024,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "intermediate_size": 3072,
        "vocab_size": 151936,
        "max_position_embeddings": 40960,
        "rope_theta": 1000000.0,
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "bos_token_id": 151643,
        "eos_token_id": 151645,
    },
}
SHAPES["tiny"] = SHAPES["qwen3-0.6b"] | {
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "intermediate_size": 256,
    "vocab_size": 2048,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


@dataclass(frozen=True, slots=True)
class Point:
    """One thing to measure: a batch of prompts, and how many tokens follow the first one (0 measures the prefill)."""

    batch: int
    prompt: int
    decode: int

    @property
    def name(self) -> str:
        return f"decode {self.batch}" if self.decode else f"prefill {self.prompt}"


class Engine(Protocol):
    """Something that can be timed."""

    name: str

    def seconds(self, prompts: list[list[int]], point: Point) -> float:
        """Return the seconds of what ``point`` measures."""

    def close(self) -> None: ...


class Hardpoint:
    """Our engine in this process."""

    name = "hardpoint"

    def __init__(self, folder: Path, dtype: str, threads: int, points: list[Point]) -> None:
        from hardpoint import LLM

        most = max(point.prompt + point.decode + 1 for point in points)
        self._llm = LLM(
            str(folder),
            dtype=dtype,
            load_format="dummy",
            skip_tokenizer_init=True,
            threads=threads,
            max_model_len=most,
            max_num_seqs=max(point.batch for point in points),
            # A batch's prompts are computed in one step: all its sequences then decode side by side.
            max_num_batched_tokens=max(point.batch * point.prompt for point in points),
            num_blocks=max(point.batch for point in points) * (most // 16 + 2) + 2,
        )

    def seconds(self, prompts: list[list[int]], point: Point) -> float:
        from hardpoint import SamplingParams

        params = SamplingParams(temperature=0.0, max_tokens=point.decode + 1, ignore_eos=True, detokenize=False)
        self._llm.reset_prefix_cache()
        begin = time.perf_counter()
        outputs = self._llm.generate([{"prompt_token_ids": ids} for ids in prompts], params, use_tqdm=False)
        elapsed = time.perf_counter() - begin
        assert all(len(output.outputs[0].token_ids) == point.decode + 1 for output in outputs)
        if not point.decode:
            return elapsed
        firsts = [output.metrics.first_token_time for output in outputs]
        lasts = [output.metrics.last_token_time for output in outputs]
        spread, decoding = max(firsts) - min(firsts), max(lasts) - max(firsts)
        if spread > decoding / point.decode / 2:
            raise SystemExit(
                f"{point.name}: the prompts of a batch were computed over several steps; this is no decode rate"
            )
        return decoding

    def close(self) -> None:
        self._llm.close()


class Transformers:
    """``generate`` of the transformers library, with its defaults: sdpa attention, dynamic cache."""

    name = "transformers"

    def __init__(self, folder: Path, dtype: str, threads: int, points: list[Point]) -> None:
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM

        self._torch, self._threads = torch, threads
        torch.manual_seed(0)
        config = AutoConfig.from_pretrained(folder)
        self._model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype)).eval()
        self._model.generation_config.eos_token_id = None
        self._model.generation_config.pad_token_id = 0

    def seconds(self, prompts: list[list[int]], point: Point) -> float:
        torch = self._torch
        torch.set_num_threads(self._threads)
        times: list[float] = []

        def clock(ids: Any, scores: Any, **more: Any) -> Any:
            times.append(time.perf_counter())
            return torch.zeros(ids.shape[0], dtype=torch.bool)

        ids = torch.tensor(prompts)
        with torch.inference_mode():
            begin = time.perf_counter()
            out = self._model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=point.decode + 1,
                do_sample=False,
                stopping_criteria=[clock],
            )
            elapsed = time.perf_counter() - begin
        assert out.shape[1] == point.prompt + point.decode + 1
        return times[-1] - times[0] if point.decode else elapsed

    def close(self) -> None:
        del self._model


ENGINES: dict[str, Callable[..., Engine]] = {"hardpoint": Hardpoint, "transformers": Transformers}


@dataclass(slots=True)
class Row:
    """Tokens per second of one engine at one point."""

    engine: str
    dtype: str
    point: str
    rates: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        middle = statistics.median(self.rates)
        return f"{middle:,.1f} [{min(self.rates):,.1f}-{max(self.rates):,.1f}]"


def measure(folder: Path, dtype: str, points: list[Point], options: argparse.Namespace) -> Iterator[Row]:
    """Load both engines and time them in turn, every repetition with prompts of its own."""
    vocab = json.loads((folder / "config.json").read_text())["vocab_size"]
    engines = [ENGINES[name](folder, dtype, options.threads, points) for name in options.engines]
    rows = {(engine.name, point): Row(engine.name, dtype, point.name) for engine in engines for point in points}
    numbers = np.random.default_rng(0)
    for repetition in range(-1, options.repetitions):
        for point in points:
            prompts = numbers.integers(3, vocab, size=(point.batch, point.prompt)).tolist()
            # Whoever goes first finds the caches as the other left them; they take turns.
            for engine in engines if repetition % 2 else reversed(engines):
                seconds = engine.seconds(prompts, point)
                if repetition >= 0:
                    rate = point.batch * (point.decode or point.prompt) / seconds
                    rows[engine.name, point].rates.append(rate)
                    print(f"{dtype} {point.name:<12} {engine.name:<13} {rate:10.1f} tok/s", file=sys.stderr, flush=True)
    for engine in engines:
        engine.close()
    del engines
    gc.collect()
    yield from rows.values()


def table(rows: list[Row]) -> str:
    """Return a markdown table: a line an engine and type, a column a point."""
    points = list(dict.fromkeys(row.point for row in rows))
    lines = [f"| engine | dtype | {' | '.join(points)} |", f"|---|---|{'---|' * len(points)}"]
    for key in dict.fromkeys((row.engine, row.dtype) for row in rows):
        cells = [str(row) for point in points for row in rows if (row.engine, row.dtype, row.point) == (*key, point)]
        lines.append(f"| {key[0]} | {key[1]} | {' | '.join(cells)} |")
    return "\n".join(lines)


def machine(threads: int) -> dict[str, Any]:
    """Return where and with what this was measured."""
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text() if cpuinfo.exists() else ""
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    names = {name.strip(): value.strip() for name, value in fields.items()}
    flags = set(names.get("flags", "").split())
    return {
        "cpu": names.get("model name", platform.processor()),
        "extensions": sorted(flags & {"avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8"}),
        "threads": threads,
        "system": platform.platform(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in ("hardpoint", "torch", "transformers")},
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "command": shlex.join(["python", *sys.argv]),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=sorted(SHAPES), default="qwen3-0.6b")
    parser.add_argument("--dtypes", default="float32,bfloat16")
    parser.add_argument("--engines", default="hardpoint,transformers")
    parser.add_argument("--batches", default="1,8,16", help="parallel requests for decode")
    parser.add_argument("--prompt", type=int, default=128, help="prompt tokens before decoding")
    parser.add_argument("--decode", type=int, default=32, help="tokens decoded after the first one")
    parser.add_argument("--prefill", type=int, default=512, help="prompt tokens for prefill")
    parser.add_argument("--repetitions", type=int, default=5, help="after one that does not count")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--json", type=Path, help="write the result to this file")
    options = parser.parse_args()
    options.engines = options.engines.split(",")
    points = [Point(int(batch), options.prompt, options.decode) for batch in options.batches.split(",")]
    points.append(Point(1, options.prefill, 0))
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(SHAPES[options.shape]))
        for dtype in options.dtypes.split(","):
            rows += measure(Path(folder), dtype, points, options)
    where = machine(options.threads)
    print(f"{options.shape}, tokens/s, median [min-max] of {options.repetitions}; {json.dumps(where)}\n")
    print(table(rows))
    if options.json:
        result = {"shape": options.shape, **where, "rows": [asdict(row) for row in rows]}
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
