"""Held-out evaluation: `python -m hardpoint_demo.evaluate` asks unseen prompts of every kind and grades them exactly."""

from __future__ import annotations

import argparse
import json
import random
import sys
from dataclasses import dataclass, field
from pathlib import Path

from hardpoint_demo.corpus import KINDS
from hardpoint_demo.corpus.base import Example
from hardpoint_demo.engines import Generate, hardpoint_engine, transformers_engine
from hardpoint_demo.paths import MODEL_PATH


@dataclass
class Score:
    """Result of one kind: how many were asked, how many were right, and the wrong ones."""

    asked: int = 0
    right: int = 0
    wrong: list[dict[str, str]] = field(default_factory=list)

    @property
    def percent(self) -> float:
        """Share of right answers in percent."""
        return 100.0 * self.right / max(1, self.asked)


def held_out_examples(kind: str, count: int, seed: int) -> list[Example]:
    """`count` different held-out examples of one kind, fixed by the seed."""
    rng = random.Random(f"evaluation:{kind}:{seed}")
    found: dict[str, Example] = {}
    while len(found) < count:
        example = KINDS[kind].held_out_example(rng)
        found.setdefault(json.dumps([example.messages, example.tools]), example)
    return list(found.values())


def evaluate(
    generate: Generate, per_kind: int = 200, seed: int = 0, kinds: list[str] | None = None
) -> dict[str, Score]:
    """Ask `per_kind` held-out prompts of each kind in one call of `generate`, and grade the answers."""
    examples = [example for kind in kinds or list(KINDS) for example in held_out_examples(kind, per_kind, seed)]
    texts = generate([example.messages for example in examples], [example.tools for example in examples])
    scores: dict[str, Score] = {}
    for example, text in zip(examples, texts, strict=True):
        score = scores.setdefault(example.kind, Score())
        score.asked += 1
        if KINDS[example.kind].grade(example, text):
            score.right += 1
        else:
            asked = str(example.messages[-1]["content"])
            score.wrong.append({"asked": asked, "answered": text, "expected": example.reference})
    return scores


def table(scores: dict[str, Score]) -> str:
    """The scores as a Markdown table."""
    lines = ["| kind | asked | right | percent |", "| --- | ---: | ---: | ---: |"]
    lines += [f"| {kind} | {score.asked} | {score.right} | {score.percent:.1f} |" for kind, score in scores.items()]
    return "\n".join(lines)


def as_json(scores: dict[str, Score]) -> str:
    """The scores as JSON, without the wrong answers."""
    rows = {
        kind: {"asked": score.asked, "right": score.right, "percent": round(score.percent, 2)}
        for kind, score in scores.items()
    }
    return json.dumps(rows, indent=2)


def main(arguments: list[str] | None = None) -> int:
    """Command line; the exit status is 0 only if every kind reaches `--least` percent."""
    parser = argparse.ArgumentParser(prog="python -m hardpoint_demo.evaluate", description=__doc__)
    parser.add_argument("--model", type=Path, default=MODEL_PATH)
    parser.add_argument("--engine", choices=("transformers", "hardpoint"), default="transformers")
    parser.add_argument("--device", default="auto", help="for the transformers engine")
    parser.add_argument("--per-kind", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="*", choices=list(KINDS))
    parser.add_argument("--show", type=int, default=0, help="print this many wrong answers per kind")
    parser.add_argument("--least", type=float, default=95.0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    hardpoint = options.engine == "hardpoint"
    generate = hardpoint_engine(options.model) if hardpoint else transformers_engine(options.model, options.device)
    scores = evaluate(generate, options.per_kind, options.seed, options.kinds)
    print(as_json(scores) if options.json else table(scores))
    for kind, score in scores.items():
        for wrong in score.wrong[: options.show]:
            print(f"{kind}: {json.dumps(wrong, ensure_ascii=False)}", file=sys.stderr)
    return 0 if all(score.percent >= options.least for score in scores.values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
