"""The runner: plans in, tokens out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hardpoint.contract.kv import KVBudget, KVPlan, KVSpec
from hardpoint.contract.step import RowStart, StepPlan, StepResult, TokenLogprobs
from hardpoint_numpy.model import Array, Llama

if TYPE_CHECKING:
    from hardpoint.config import EngineConfig
    from hardpoint.contract.limits import BatchLimits

BLOCK_SIZE = 8


class Done:
    """A step that ran when it was submitted."""

    def __init__(self, result: StepResult) -> None:
        self._result = result

    def ready(self) -> bool:
        return True

    def result(self) -> StepResult:
        return self._result


class NumpyRunner:
    """One model on one imaginary device.

    Args:
        config: of the engine.
        limits: of a step.
    """

    def __init__(self, config: EngineConfig, limits: BatchLimits) -> None:
        self._config, self._limits = config, limits
        self._rows: dict[int, RowStart] = {}
        self._tokens: dict[int, list[int]] = {}

    def load(self) -> None:
        self._model = Llama(Path(self._config.model.model))

    def kv_specs(self) -> tuple[KVSpec, ...]:
        spec = KVSpec(num_kv_heads=self._model.kv_heads, head_size=self._model.size, dtype="float32")
        return (spec,) * self._model.layers

    def block_bytes(self, spec: KVSpec, block_size: int) -> int:
        return spec.token_bytes * block_size

    def kv_budget(self) -> KVBudget:
        cache = self._config.cache
        if cache.num_blocks is not None:
            return KVBudget(block_size=BLOCK_SIZE, num_blocks=cache.num_blocks)
        return KVBudget(block_size=BLOCK_SIZE, bytes=cache.kv_cache_memory or 256 << 20)

    def start(self, kv: KVPlan) -> None:
        self._cache = self._model.cache(kv.num_blocks, kv.block_size)
        width = -(-(self._config.model.max_model_len or 4096) // kv.block_size) + 1
        self._table = np.zeros((self._limits.max_requests, width), np.int32)

    def step(self, plan: StepPlan) -> Done:
        self._apply(plan)
        slots, tokens = [], []
        for row, computed, count in zip(
            plan.rows.tolist(), plan.num_computed.tolist(), plan.num_tokens.tolist(), strict=True
        ):
            at = np.arange(computed + count)
            slots.append(self._table[row, at // BLOCK_SIZE].astype(np.int64) * BLOCK_SIZE + at % BLOCK_SIZE)
            tokens += self._tokens[row][computed : computed + count]
        positions = np.concatenate(
            [np.arange(c, c + n) for c, n in zip(plan.num_computed, plan.num_tokens, strict=True)]
        )
        hidden = self._model.forward(np.array(tokens), positions, slots, plan.num_tokens, self._cache)
        return Done(self._sample(plan, hidden))

    def idle(self) -> bool:
        return False

    def recover(self) -> None:
        self._rows.clear()

    def start_profile(self) -> None:
        pass

    def stop_profile(self, path: str) -> None:
        Path(path).write_text('{"traceEvents": []}', encoding="utf-8")

    def describe(self) -> Mapping[str, Any]:
        return {"platform": "numpy", "device": "numpy", "arch": "numpy", "memory": []}

    def close(self) -> None:
        self._rows.clear()

    def _apply(self, plan: StepPlan) -> None:
        for row in plan.stops.tolist():
            self._rows.pop(row, None)
        for start in plan.starts:
            self._rows[start.row] = start
            self._tokens[start.row] = start.token_ids.tolist()
            self._table[start.row, : len(start.blocks[0])] = start.blocks[0]
        self._table[plan.block_rows, plan.block_columns] = plan.block_ids
        for source, target in plan.copies.tolist():
            wide = self._cache.reshape(*self._cache.shape[:2], -1, BLOCK_SIZE, *self._cache.shape[3:])
            wide[:, :, target] = wide[:, :, source]

    def _sample(self, plan: StepPlan, hidden: Array) -> StepResult:
        count, ends = len(plan.rows), np.cumsum(plan.num_tokens)
        result = StepResult(step=plan.step, tokens=np.zeros((count, 1), np.int32), counts=plan.samples.astype(np.int32))
        for at, row in enumerate(plan.rows.tolist()):
            start = self._rows[row]
            first, last = ends[at] - plan.num_tokens[at], ends[at]
            if start.params.prompt_logprobs is not None:
                known = self._tokens[row][plan.num_computed[at] + 1 : plan.num_computed[at] + plan.num_tokens[at] + 1]
                known = known[: max(0, start.num_prompt - int(plan.num_computed[at]) - 1)]
                if known:
                    logits = self._model.logits(hidden[first : first + len(known)])
                    result.prompt_logprobs[at] = top(logits, np.array(known), start.params.prompt_logprobs)
            if not plan.samples[at]:
                continue
            logits = self._model.logits(hidden[last - 1 : last])
            token = self._choose(start, logits[0].astype(np.float64), len(self._tokens[row]))
            result.tokens[at, 0] = token
            self._tokens[row].append(token)
            if start.params.logprobs is not None:
                result.logprobs[at] = top(logits, np.array([token]), start.params.logprobs)
        return result

    def _choose(self, start: RowStart, logits: np.ndarray, length: int) -> int:
        params = start.params
        if length - start.num_prompt < params.min_tokens:
            logits[[*start.eos_token_ids, *params.stop_token_ids]] = -np.inf
        if params.temperature == 0:
            return int(logits.argmax())
        weights = np.exp((logits - logits.max()) / params.temperature)
        if params.min_p:
            weights[weights < params.min_p] = 0
        order = np.argsort(-weights, kind="stable")
        if params.top_k > 0:
            weights[order[params.top_k :]] = 0
        if params.top_p < 1:
            mass = np.cumsum(weights[order]) / weights.sum()
            weights[order[np.concatenate([[False], mass[:-1] >= params.top_p])]] = 0
        draw = np.random.default_rng((params.seed or 0, length)).random()
        return int(np.searchsorted(np.cumsum(weights) / weights.sum(), draw, side="right"))


def top(logits: Array, tokens: np.ndarray, count: int) -> TokenLogprobs:
    """Return log-probabilities of ``tokens`` and of the ``count`` most likely ones (-1 is all)."""
    wide = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    values = wide - np.log(np.exp(wide).sum(-1, keepdims=True))
    order = np.argsort(-values, -1, kind="stable")[:, : values.shape[1] if count < 0 else count]
    chosen = np.take_along_axis(values, tokens[:, None], 1)
    ids = np.concatenate([tokens[:, None], order], 1)
    return TokenLogprobs(
        token_ids=ids.astype(np.int32),
        values=np.take_along_axis(values, ids, 1).astype(np.float32),
        ranks=(values > chosen).sum(1).astype(np.int32) + 1,
    )
