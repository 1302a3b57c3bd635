"""The least time that a workload can take on an H200, from bytes and operations at rates that were measured there.

Weights and cached keys and values are read at the rate that cuBLAS reaches at batch 1; products of many rows run at the rate
that cuBLAS reaches at 8,192 rows, attention of prompts at cuDNN's; one after the other. Overlapping the reads of the cache
with products can go below such a floor.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from hardpoint.bench import shapes
from hardpoint.bench.workloads import WORKLOADS, Load

#: Bytes per second, and operations per second of products in 16 and 8 bits and of attention.
READ: Final = 4.2e12
PRODUCTS: Final = {2: 670e12, 1: 1340e12}
ATTENTION: Final = 620e12
#: Prompt tokens of one step.
STEP_TOKENS: Final = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a model costs.

    Attributes:
        dense: parameters that every token meets, without embedding and head.
        head: parameters of the head.
        expert: parameters of one expert over all layers; 0 for dense models.
        experts, chosen: how many there are, and how many a token meets.
        weight_bytes: bytes of a parameter, the head's excepted: it stays in 16 bits.
        kv_bytes: bytes of one token's keys and values over all layers.
        attention: operations per query token and cached token over all layers.
    """

    dense: int
    head: int
    expert: int
    experts: int
    chosen: int
    weight_bytes: int
    kv_bytes: int
    attention: int

    @staticmethod
    def of(shape: str, weight_bytes: int = 2, kv_element: int = 2) -> Cost:
        """Return the cost of a published shape."""
        config: dict[str, Any] = json.loads((shapes.folder(shape) / "config.json").read_text(encoding="utf-8"))
        hidden, layers, size = config["hidden_size"], config["num_hidden_layers"], config["head_dim"]
        heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
        layer = hidden * size * (2 * heads + 2 * kv_heads)
        experts, expert = config.get("num_experts", 0), 0
        if experts:
            expert = 3 * hidden * config["moe_intermediate_size"] * layers
            layer += hidden * experts
        else:
            layer += 3 * hidden * config["intermediate_size"]
        return Cost(
            dense=layer * layers,
            head=config["vocab_size"] * hidden,
            expert=expert,
            experts=experts,
            chosen=config.get("num_experts_per_tok", 0),
            weight_bytes=weight_bytes,
            kv_bytes=2 * kv_heads * size * layers * kv_element,
            attention=4 * heads * size * layers,
        )

    def products(self, tokens: int, sampled: int) -> float:
        """Return the seconds of a step's products: reading the weights that are met, or the operations."""
        met = self.experts * (1 - (1 - self.chosen / self.experts) ** tokens) if self.experts else 0.0
        read = ((self.dense + self.expert * met) * self.weight_bytes + self.head * 2) / READ
        rate, head_rate = PRODUCTS[self.weight_bytes], PRODUCTS[2]
        worked = 2 * tokens * (self.dense + self.expert * self.chosen) / rate + 2 * sampled * self.head / head_rate
        return max(read, worked)

    def prefill(self, lengths: Sequence[int], cached: int = 0) -> float:
        """Return the seconds of prompts of ``lengths`` tokens behind ``cached`` tokens each."""
        total = sum(lengths)
        steps = max(1, round(total / STEP_TOKENS))
        pairs = sum(n * cached + n * n / 2 for n in lengths)
        return steps * self.products(total // steps, len(lengths) // steps) + pairs * self.attention / ATTENTION

    def decode(self, contexts: Sequence[int], outputs: Sequence[int], shared: int = 0) -> float:
        """Return the seconds of all tokens behind the first; ``shared`` leading tokens are read once a step."""
        seconds = 0.0
        for step in range(1, max(outputs)):
            running = [c + step for c, n in zip(contexts, outputs, strict=True) if n > step]
            read = sum(running) - shared * max(0, len(running) - 1)
            seconds += self.products(len(running), len(running)) + read * self.kv_bytes / READ
        return seconds


def seconds(cost: Cost, loads: Sequence[Load], *, prefix: int = 0, read_prefix_once: bool = False) -> float:
    """Return the floor of a workload that is given at once.

    Args:
        cost: of the model.
        loads: the requests.
        prefix: leading tokens that all prompts share; computed once.
        read_prefix_once: whether a step reads their keys and values once for all requests.
    """
    lengths = [len(load.prompt) for load in loads]
    outputs = [load.output_len for load in loads]
    first = cost.prefill([prefix]) if prefix else 0.0
    prompts = cost.prefill([length - prefix for length in lengths], cached=prefix)
    return first + prompts + cost.decode(lengths, outputs, prefix if read_prefix_once else 0)


def row(shape: str, workload: str, weight_bytes: int = 2, kv_element: int = 2) -> dict[str, float]:
    """Return the floor of a row: ``s``, ``out_tok_s``, ``total_tok_s``, and for one request ``ttft_ms``, ``tpot_ms``."""
    cost = Cost.of(shape, weight_bytes, kv_element)
    loads = WORKLOADS[workload].generate(200_000, 0)
    prefix = 2048 if workload == "shared_prefix_256" else 0
    took = seconds(cost, loads, prefix=prefix)
    tokens_in, tokens_out = sum(len(load.prompt) for load in loads), sum(load.output_len for load in loads)
    found = {"s": took, "out_tok_s": tokens_out / took, "total_tok_s": (tokens_in + tokens_out) / took}
    if len(loads) == 1:
        found["ttft_ms"] = cost.prefill([tokens_in]) * 1e3
        found["tpot_ms"] = cost.decode([tokens_in], [tokens_out]) / (tokens_out - 1) * 1e3
    if prefix:
        found["s_prefix_once"] = seconds(cost, loads, prefix=prefix, read_prefix_once=True)
    return found
