"""Make the demo model from nothing: `python -m hardpoint_demo.train --out DIR --seed 0`.

Generates the corpus, trains the tokenizer and the network, saves both, and evaluates what was saved.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

# Set before torch starts, as cuBLAS reads it only once: with it matrix products repeat bit for bit.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch

from hardpoint_demo.batches import TOKENS, stream
from hardpoint_demo.card import write_card
from hardpoint_demo.engines import transformers_engine
from hardpoint_demo.evaluate import Score, as_json, evaluate, table
from hardpoint_demo.export import save_model
from hardpoint_demo.network import Network, Shape, initial_parameters
from hardpoint_demo.optimizer import Optimizer, schedule
from hardpoint_demo.rendering import END, PAD
from hardpoint_demo.stepper import Stepper
from hardpoint_demo.tokenizer import save_tokenizer, train_tokenizer

STEPS = 17879
# The step at which `--minutes` fixes the number of steps; the schedule is still near its peak then.
CALIBRATED = 1500


def _fitting(minutes: float, spent: float, per_step: float) -> int:
    """How many steps fit into `minutes`, given the seconds spent up to step CALIBRATED and the seconds a step takes."""
    return CALIBRATED + max(0, int((60 * minutes - spent) / per_step))


def _assess(folder: Path, device: torch.device, per_kind: int) -> dict[str, Score]:
    generate = transformers_engine(folder, device.type, batch_size=1024 if device.type == "cuda" else 16)
    return evaluate(generate, per_kind)


def train(options: argparse.Namespace) -> dict[str, Score]:
    """Run the whole pipeline with parsed command-line options; returns the final held-out scores."""
    began = time.perf_counter()
    found = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = train_tokenizer(options.seed, options.tokenizer_chats)
    shape = Shape(vocabulary=tokenizer.get_vocab_size())
    save_tokenizer(tokenizer, options.out, shape.context)
    eos, pad = tokenizer.token_to_id(END), tokenizer.token_to_id(PAD)
    # The workers fork here, before CUDA is touched.
    batches = stream(tokenizer.to_str(), options.seed, options.chunk_chats, options.tokens, options.workers)
    upcoming = next(batches)
    print(f"tokenizer and first chunk after {time.perf_counter() - began:.0f} s", flush=True)

    torch.manual_seed(options.seed)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # costs time, and nothing reads what is not written
    device = torch.device(found if options.device == "auto" else options.device)
    cuda = device.type == "cuda"
    start = initial_parameters(shape, torch.Generator().manual_seed(options.seed))
    parameters = {name: value.to(device).requires_grad_() for name, value in start.items()}
    network = Network(shape, parameters, torch.bfloat16 if cuda else torch.float32, fuse=cuda)
    step_once = Stepper(network, Optimizer(parameters), parameters, device)
    print(f"{sum(value.numel() for value in parameters.values())} parameters on {device.type}", flush=True)

    steps, done, trained, waited = options.steps, 0, 0, 0.0
    measured = time.perf_counter()
    while done < steps:
        step_once(upcoming, schedule(done, steps))
        trained += upcoming[0].size
        done += 1
        asked = time.perf_counter()
        upcoming = next(batches)
        waited += time.perf_counter() - asked
        if options.minutes and done == CALIBRATED - 500:
            torch.cuda.synchronize()
            measured = time.perf_counter()
        if options.minutes and done == CALIBRATED:
            torch.cuda.synchronize()
            steps = _fitting(options.minutes, time.perf_counter() - began, (time.perf_counter() - measured) / 500)
            print(f"{steps} steps fit into {options.minutes} minutes", flush=True)
        if done in (10, 100, 300) or done % options.log_every == 0 or done == steps:
            print(
                f"step {done} loss {step_once.loss.item():.4f} {trained / 1e6:.0f}M positions "
                f"{time.perf_counter() - began:.0f} s, of which {waited:.1f} s for data",
                flush=True,
            )
        if done % options.eval_every == 0 and done < steps:
            save_model(shape, parameters, options.out, eos, pad)
            scores = _assess(options.out, device, options.eval_prompts // 4)
            percents = " ".join(f"{kind} {score.percent:.0f}" for kind, score in scores.items())
            print(f"step {done}: {percents}", flush=True)
    batches.close()
    save_model(shape, parameters, options.out, eos, pad)
    scores = _assess(options.out, device, options.eval_prompts)
    (options.out / "evaluation.json").write_text(as_json(scores) + "\n", encoding="utf-8")
    write_card(options.out, shape, scores, steps, trained, options.seed)
    return scores


def main(arguments: list[str] | None = None) -> int:
    """Command line; the small numbers of a trial run (`--steps 20 --tokens 6144 ...`) fit a laptop."""
    parser = argparse.ArgumentParser(prog="python -m hardpoint_demo.train", description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--minutes", type=float, help="take as many steps as fit instead (training alone)")
    parser.add_argument("--tokens", type=int, default=TOKENS, help="positions a batch")
    parser.add_argument(
        "--workers", type=int, default=max(1, (os.cpu_count() or 2) - 1), help="0 generates in this process"
    )
    parser.add_argument("--chunk-chats", type=int, default=12000, help="chats a worker generates at a time")
    parser.add_argument("--tokenizer-chats", type=int, default=20000)
    parser.add_argument("--eval-prompts", type=int, default=200, help="held-out prompts a kind at the end")
    parser.add_argument("--eval-every", type=int, default=1_000_000, help="steps between checks")
    parser.add_argument("--log-every", type=int, default=1000)
    parser.add_argument("--show", type=int, default=0, help="print this many wrong answers a kind at the end")
    options = parser.parse_args(arguments)
    scores = train(options)
    for kind, score in scores.items():
        for wrong in score.wrong[: options.show]:
            print(kind, wrong)
    print(table(scores), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
