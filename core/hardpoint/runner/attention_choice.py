"""Which attention backend serves which layers, and why the others do not."""

from __future__ import annotations

from typing import Any, cast

from hardpoint.config import EngineConfig
from hardpoint.contract.attention import (
    AttentionBackend,
    AttentionLayer,
    AttentionLayerConfig,
    AttentionQuery,
)
from hardpoint.contract.device import DeviceInfo
from hardpoint.contract.errors import ConfigError
from hardpoint.contract.platform import Platform
from hardpoint.plugins import Catalogue

DEFAULT_BLOCK_SIZE = 16


class AttentionChoice:
    """Chooses a backend per kind of layer by asking each candidate for its reasons to refuse.

    Args:
        config: ``platform.attention_backend`` names one candidate, ``auto`` takes the platform's list;
            ``cache.block_size`` is what the user wants, ``None`` takes the first candidate's preference.
        dtype: the model's element type by torch's name.

    Attributes:
        block_size: tokens per block for all layers.
        kv_dtype: element type of the cache.
        chosen: per attention layer the backend that serves it, in layer order.
    """

    def __init__(
        self, config: EngineConfig, catalogue: Catalogue, platform: Platform, info: DeviceInfo, dtype: str
    ) -> None:
        wanted = config.platform.attention_backend
        names = tuple(platform.attention_backends()) if wanted == "auto" else (wanted,)
        self._candidates = [cast("AttentionBackend", catalogue.create("attention_backends", name)) for name in names]
        if not self._candidates:
            raise ConfigError(
                f"platform {platform.name!r} offers no attention backend; name one with --attention-backend"
            )
        self._info = info
        self._dtype = dtype
        self.kv_dtype = dtype if config.cache.kv_cache_dtype == "auto" else config.cache.kv_cache_dtype
        preferred = self._candidates[0].block_sizes()
        self.block_size = config.cache.block_size or (preferred[0] if preferred else DEFAULT_BLOCK_SIZE)
        self.chosen: list[AttentionBackend] = []
        self._described: dict[AttentionQuery, dict[str, Any]] = {}

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
        refused: dict[str, list[str]] = {}
        for backend in self._candidates:
            reasons = backend.reject(query)
            if not reasons:
                self._note(query, layer.layer, backend.name, refused)
                self.chosen.append(backend)
                return backend.layer(layer, self.block_size)
            refused[backend.name] = reasons
        lines = "; ".join(f"{name}: {', '.join(reasons)}" for name, reasons in refused.items())
        raise ConfigError(
            f"no attention backend serves layer {layer.layer} (head size {layer.head_size}, {layer.num_heads} heads, "
            f"{layer.num_kv_heads} key/value heads, {self._dtype}, block size {self.block_size}): {lines}"
        )

    def describe(self) -> list[dict[str, Any]]:
        """Return per kind of layer: its layers, the backend, and who refused why."""
        return list(self._described.values())

    def _note(self, query: AttentionQuery, layer: int, name: str, refused: dict[str, list[str]]) -> None:
        entry = self._described.setdefault(
            query,
            {
                "layers": [],
                "backend": name,
                "refused": refused,
                "window": query.window,
                "head_size": query.head_size,
                "heads": query.num_heads,
                "kv_heads": query.num_kv_heads,
                "kv_dtype": query.kv_dtype,
                "block_size": query.block_size,
            },
        )
        entry["layers"].append(layer)
