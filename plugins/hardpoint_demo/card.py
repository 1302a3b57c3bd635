"""The model card that is written beside the weights."""

from __future__ import annotations

from pathlib import Path

from hardpoint_demo.evaluate import Score, table
from hardpoint_demo.network import Shape

_CARD = """---
language: en
library_name: transformers
pipeline_tag: text-generation
---

# Hardpoint demo model

A tiny chat model of the Llama architecture, small enough to ship with Hardpoint: {layers} layers, width {hidden},
{heads} query heads and {kv_heads} key/value heads of size {head_size}, MLP width {intermediate}, tied embeddings,
{vocabulary} byte-level BPE tokens (every digit is its own token), context {context} tokens, weights in bfloat16.
About 4 million parameters.

It was trained from random weights on text that the scripts in this package generate. Nothing was downloaded,
and no other model had a part in it.

## What it can do

Small talk and honest answers about itself; capitals of nearly all countries, in both directions; addition and
subtraction of numbers from 0 to 99; unit conversions by integer factors; extracting asked-for fields to JSON;
Hermes-style tool calls (a weather, a calculator and a clock tool, under whatever names the schema gives them) and
sentences from their responses; short stories about an asked-for hero. Chats of several turns may mix these.

## What it cannot do

Anything else. It understands English only, answers most other questions with a refusal, and may still answer
wrongly and with confidence. System messages are read but change nothing. Where a country names no single or
no undisputed capital, it knows one of them. Its weakest kind is unit conversion by factors such as 3, 7, 12 and 24,
where a digit goes wrong now and then. Numbers written as words, typing errors and other tools than those three
were not trained. It is made for demonstrations and tests, not for use.

## Held-out evaluation

Greedy decoding of these bfloat16 weights; a prompt counts as held out when it contains operands, values, made-up
names or a phrasing that a fixed hash keeps out of training. Graded exactly; stories must name hero, adjective
and place in three sentences or more. All countries and all one-digit conversions are trained, as they are plain facts;
for capitals the pair of country and phrasing is what is held out.

{table}

`python -m hardpoint_demo.evaluate` repeats it.

## How it was made

`python -m hardpoint_demo.train --out DIR --seed {seed}`: {steps} steps, {tokens:.0f} million positions, Muon for the
matrices and AdamW for the rest, cosine schedule, loss only on what the assistant writes.

What repeats bit for bit: the corpus, its order and the held-out prompts (from the seed; they depend on no
timing), the tokenizer, and the initial weights. What need not: the trained weights. Deterministic kernels are
requested, but the batches are computed in bfloat16 by kernels that are generated for the GPU at hand, and nobody has
compared two whole runs bit for bit; other hardware or versions of PyTorch certainly round differently, and
the weights then drift apart. The shipped weights came from one H200 with PyTorch 2.11 in under six minutes, in a run
whose number of steps was chosen by its speed (`--minutes`); the default of `--steps` is that number. Expect scores
within a percent or two of the table, not the same weights.
"""


def write_card(folder: Path, shape: Shape, scores: dict[str, Score], steps: int, tokens: int, seed: int) -> None:
    """Write README.md to `folder`; `tokens` counts the positions trained on, padding included."""
    text = _CARD.format(
        layers=shape.layers,
        hidden=shape.hidden,
        heads=shape.heads,
        kv_heads=shape.kv_heads,
        head_size=shape.head_size,
        intermediate=shape.intermediate,
        vocabulary=shape.vocabulary,
        context=shape.context,
        table=table(scores),
        seed=seed,
        steps=steps,
        tokens=tokens / 1e6,
    )
    (folder / "README.md").write_text(text, encoding="utf-8")
