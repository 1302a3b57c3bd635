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

from hardpoint_demo.batches import TOKENS, Batch, stream
from hardpoint_demo.card import write_card
from hardpoint_demo.engines import transformers_engine
from hardpoint_demo.evaluate import Score, as_json, evaluate, table
from hardpoint_demo.export import save_model
from hardpoint_demo.network import Network, Shape, initial_parameters
from hardpoint_demo.optimizer import Optimizer, schedule
from hardpoint_demo.rendering import END, PAD
from hardpoint_demo.tokenizer import save_tokenizer, train_tokenizer

STEPS = 14000


def _to_device(batch: Batch, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    inputs, targets = (torch.from_numpy(array) for array in batch)
    if device.type == "cuda":
        inputs, targets = inputs.pin_memory(), targets.pin_memory()
    return inputs.to(device, non_blocking=True).int(), targets.to(device, non_blocking=True).long()


def _assess(folder: Path, device: torch.device, per_kind: int) -> dict[str, Score]:
    generate = transformers_engine(folder, device.type, batch_size=512 if device.type == "cuda" else 16)
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
    optimizer = Optimizer(parameters)
    print(f"{sum(value.numel() for value in parameters.values())} parameters on {device.type}", flush=True)

    since, waited, trained = time.perf_counter(), 0.0, 0
    for step in range(options.steps):
        inputs, targets = _to_device(upcoming, device)
        loss = network.loss(inputs, targets)
        loss.backward()
        optimizer.step(schedule(step, options.steps))
        trained += upcoming[0].size
        asked = time.perf_counter()
        upcoming = next(batches)
        waited += time.perf_counter() - asked
        done = step + 1
        if done in (10, 50, 200, 500) or done % options.log_every == 0 or done == options.steps:
            now = time.perf_counter()
            print(
                f"step {done} loss {loss.item():.4f} {trained / 1e6:.0f}M tokens {now - began:.0f} s "
                f"(data waits {waited:.1f} s, {trained / (now - since) / 1e6:.2f}M tokens/s)",
                flush=True,
            )
        if done % options.eval_every == 0 and done < options.steps:
            save_model(shape, parameters, options.out, eos, pad)
            scores = _assess(options.out, device, options.eval_prompts // 4)
            print(f"step {done}: " + " ".join(f"{kind} {score.percent:.0f}" for kind, score in scores.items()), flush=True)
    batches.close()
    save_model(shape, parameters, options.out, eos, pad)
    scores = _assess(options.out, device, options.eval_prompts)
    (options.out / "evaluation.json").write_text(as_json(scores) + "\n", encoding="utf-8")
    write_card(options.out, shape, scores, options.steps, trained, options.seed)
    return scores


def main(arguments: list[str] | None = None) -> int:
    """Command line; the small numbers of a trial run (`--steps 20 --tokens 6144 ...`) fit a laptop."""
    parser = argparse.ArgumentParser(prog="python -m hardpoint_demo.train", description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--tokens", type=int, default=TOKENS, help="positions a batch")
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 1), help="0 generates in this process")
    parser.add_argument("--chunk-chats", type=int, default=12000, help="chats a worker generates at a time")
    parser.add_argument("--tokenizer-chats", type=int, default=20000)
    parser.add_argument("--eval-prompts", type=int, default=200, help="held-out prompts a kind at the end")
    parser.add_argument("--eval-every", type=int, default=3500)
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
