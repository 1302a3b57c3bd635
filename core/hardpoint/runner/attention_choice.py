"""Which attention backends serve which layers, and why the others do not."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, cast

from hardpoint.config import EngineConfig
from hardpoint.contract.attention import (
    AttentionBackend,
    AttentionLayer,
    AttentionLayerConfig,
    AttentionQuery,
)
from hardpoint.contract.device import Device
from hardpoint.contract.errors import ConfigError
from hardpoint.contract.platform import Platform
from hardpoint.plugins import Catalogue
from hardpoint.runner.attention_timing import AttentionTimings, Part
from hardpoint.runner.split_attention import SplitAttention, layouts_differ

_log = logging.getLogger(__name__)

DEFAULT_BLOCK_SIZE = 16
#: A backend must be faster by this part to be preferred to one that the platform lists before it.
WORTH_A_CHANGE = 0.15


@dataclass(frozen=True, slots=True)
class _Decision:
    """What serves one kind of layer, and what the report says about it."""

    backend: AttentionBackend
    refused: dict[str, list[str]]
    why: str


class AttentionChoice:
    """Chooses backends per kind of layer: those that have no reason to refuse, and of several the faster.

    Args:
        config: ``platform.attention_backend`` names one backend, ``auto`` takes the platform's list;
            ``platform.prefill_attention_backend`` and ``platform.decode_attention_backend`` overrule it for their part;
            ``platform.measure_attention`` allows a measurement where several would do;
            ``cache.block_size`` is what the user wants, ``None`` takes the first candidate's preference.
        device: where layers will run.
        dtype: the model's element type by torch's name.

    Attributes:
        block_size: tokens per block for all layers.
        kv_dtype: element type of the cache.
        chosen: per attention layer the backend that serves it, in layer order.
    """

    def __init__(
        self, config: EngineConfig, catalogue: Catalogue, platform: Platform, device: Device, dtype: str
    ) -> None:
        wanted, settings = config.platform.attention_backend, config.platform
        parts: dict[Part, str] = {
            "prefill": settings.prefill_attention_backend or wanted,
            "decode": settings.decode_attention_backend or wanted,
        }
        names = {
            part: tuple(platform.attention_backends()) if name == "auto" else (name,) for part, name in parts.items()
        }
        if not all(names.values()):
            raise ConfigError(
                f"platform {platform.name!r} offers no attention backend; name one with --attention-backend"
            )
        self._made = {
            name: cast("AttentionBackend", catalogue.create("attention_backends", name))
            for name in dict.fromkeys((*names["decode"], *names["prefill"]))
        }
        self._names = names
        packages = {package for name in self._made for package in _requires(catalogue, name)}
        self._timings = AttentionTimings(device, ("hardpoint", "torch", *sorted(packages)))
        self._measures = settings.measure_attention
        self._info = device.info
        self._dtype = dtype
        self.kv_dtype = dtype if config.cache.kv_cache_dtype == "auto" else config.cache.kv_cache_dtype
        preferred = self._made[names["decode"][0]].block_sizes()
        self.block_size = config.cache.block_size or (preferred[0] if preferred else DEFAULT_BLOCK_SIZE)
        self.chosen: list[AttentionBackend] = []
        self._decided: dict[AttentionQuery, _Decision] = {}
        self._layers: dict[AttentionQuery, list[int]] = {}

    def __call__(self, layer: AttentionLayerConfig) -> AttentionLayer:
        """Return the layer's kernels.

        Raises:
            ConfigError: when every candidate refuses, with all reasons of all of them.
        """
        query = AttentionQuery(
            head_size=layer.head_size,
            num_heads=layer.num_heads,
            num_kv_heads=layer.num_kv_heads,
            dtype=self._dtype,
            kv_dtype=self.kv_dtype,
            block_size=self.block_size,
            arch=self._info.arch,
            window=layer.window,
            soft_cap=layer.soft_cap,
            sinks=layer.sinks,
        )
        if query not in self._decided:
            self._decided[query] = self._decide(query, layer.layer)
        self._layers.setdefault(query, []).append(layer.layer)
        backend = self._decided[query].backend
        self.chosen.append(backend)
        return backend.layer(layer, self.block_size)

    def describe(self) -> list[dict[str, Any]]:
        """Return per kind of layer: its layers, the backend and why, and who refused why."""
        return [
            {
                "layers": list(layers),
                "backend": self._decided[query].backend.name,
                "why": self._decided[query].why,
                "refused": self._decided[query].refused,
                "window": query.window,
                "head_size": query.head_size,
                "heads": query.num_heads,
                "kv_heads": query.num_kv_heads,
                "kv_dtype": query.kv_dtype,
                "block_size": query.block_size,
            }
            for query, layers in self._layers.items()
        ]

    def _decide(self, query: AttentionQuery, layer: int) -> _Decision:
        reasons = {name: backend.reject(query) for name, backend in self._made.items()}
        refused = {name: why for name, why in reasons.items() if why}
        accepted = {part: [name for name in names if not reasons[name]] for part, names in self._names.items()}
        several = any(len(names) > 1 for names in accepted.values())
        times = self._times(accepted, refused, query) if several and self._measures else {}
        accepted = {part: [name for name in names if name not in refused] for part, names in accepted.items()}
        if not all(accepted.values()):
            lines = "; ".join(f"{name}: {', '.join(why)}" for name, why in refused.items())
            raise ConfigError(
                f"no attention backend serves layer {layer} (head size {query.head_size}, {query.num_heads} heads, "
                f"{query.num_kv_heads} key/value heads, {self._dtype}, block size {self.block_size}): {lines}"
            )
        pairs = [(prefill, decode) for decode in accepted["decode"] for prefill in accepted["prefill"]]
        # Sorting is stable: of equals, one that the platform lists earlier, and one that serves both parts.
        pairs.sort(key=lambda pair: (_cost(times, accepted, pair), pair[0] != pair[1]))
        apart: list[str] = []
        for prefill, decode in pairs:
            if prefill == decode:
                return _Decision(self._made[decode], refused, self._why(times, several))
            apart = layouts_differ(self._made[prefill], self._made[decode], query)
            if not apart:
                split = cast("AttentionBackend", SplitAttention(self._made[prefill], self._made[decode]))
                return _Decision(split, refused, self._why(times, several))
        raise ConfigError(
            f"layer {layer} cannot have its prompts and its decodes served apart as asked: {'; '.join(apart)}; name one "
            "backend with --attention-backend"
        )

    def _times(
        self, accepted: dict[Part, list[str]], refused: dict[str, list[str]], query: AttentionQuery
    ) -> dict[tuple[Part, str], float]:
        """Return times of each part that has a choice; a backend that fails when it is tried joins ``refused``."""
        times: dict[tuple[Part, str], float] = {}
        for part, names in accepted.items():
            rest = {name: self._made[name] for name in names if name not in refused}
            if len(rest) < 2:
                continue
            found, failures = self._timings.compare(rest, query, part)
            times |= {(part, name): seconds for name, seconds in found.items()}
            for name, error in failures.items():
                _log.error("attention backend %r failed when it was tried and is left out", name, exc_info=error)
                refused[name] = [f"failed when it was tried: {type(error).__name__}: {error}"]
        return {(part, name): seconds for (part, name), seconds in times.items() if name not in refused}

    def _why(self, times: dict[tuple[Part, str], float], several: bool) -> str:
        if not several:
            return "the only one asked for that takes the layer" if len(self._made) > 1 else ""
        if not times:
            return "first of the platform's list; nothing was measured (--no-measure-attention)"
        parts = []
        for part, words in (("prefill", "prompts"), ("decode", "decodes")):
            found = [f"{name} {seconds * 1e6:.0f}" for (of, name), seconds in times.items() if of == part]
            parts += [f"{words} {', '.join(found)} us"] if found else []
        return f"measured on {self._info.name}: {'; '.join(parts)} a layer"


def _cost(times: dict[tuple[Part, str], float], accepted: dict[Part, list[str]], pair: tuple[str, str]) -> float:
    """Return how much slower a pair is than the best, as a part of it, in steps that are worth a change."""
    total = 0.0
    parts: tuple[tuple[Part, str], ...] = (("prefill", pair[0]), ("decode", pair[1]))
    for part, name in parts:
        known = [times[part, other] for other in accepted[part] if (part, other) in times]
        if known:
            total += int((times[part, name] / min(known) - 1.0) / WORTH_A_CHANGE)
    return total


def _requires(catalogue: Catalogue, name: str) -> tuple[str, ...]:
    return catalogue.load("attention_backends", name).requires
