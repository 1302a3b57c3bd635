"""Llama (Touvron et al., 2023) in float32 numpy over a paged cache."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

Array = np.ndarray[Any, np.dtype[np.float32]]


def read_weights(folder: Path) -> dict[str, Array]:
    """Return every tensor of a checkpoint in float32; bfloat16, which numpy lacks, is widened by its bits."""
    weights: dict[str, Array] = {}
    for file in sorted(folder.glob("*.safetensors")):
        raw = file.read_bytes()
        size = int.from_bytes(raw[:8], "little")
        header = json.loads(raw[8 : 8 + size])
        with safe_open(file, framework="numpy") as tensors:
            for name, entry in header.items():
                if name == "__metadata__":
                    continue
                if entry["dtype"] == "BF16":
                    start, stop = (8 + size + offset for offset in entry["data_offsets"])
                    bits = np.frombuffer(raw[start:stop], np.uint16).astype(np.uint32) << 16
                    weights[name] = bits.view(np.float32).reshape(entry["shape"])
                else:
                    weights[name] = tensors.get_tensor(name).astype(np.float32)
    return weights


class Llama:
    """The network.

    Args:
        folder: of the checkpoint.
    """

    def __init__(self, folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        self.layers: int = config["num_hidden_layers"]
        self.heads: int = config["num_attention_heads"]
        self.kv_heads: int = config.get("num_key_value_heads") or self.heads
        self.size: int = config.get("head_dim") or config["hidden_size"] // self.heads
        self._eps: float = config["rms_norm_eps"]
        rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
        if rope.get("rope_type", rope.get("type", "default")) != "default":
            raise ValueError(f"rope_type is {rope['rope_type']!r}; this backend knows 'default'")
        theta = rope.get("rope_theta") or config.get("rope_theta") or 10000.0
        self._frequencies = 1.0 / theta ** (np.arange(0, self.size, 2) / self.size)
        self._weights = read_weights(folder)
        self._head = self._weights.get("lm_head.weight", self._weights["model.embed_tokens.weight"])

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding."""
        return len(self._head)

    def cache(self, num_blocks: int, block_size: int) -> Array:
        """Return an empty cache, [layers, 2, blocks * block_size, kv_heads, size]."""
        return np.zeros((self.layers, 2, num_blocks * block_size, self.kv_heads, self.size), np.float32)

    def forward(self, tokens: np.ndarray, positions: np.ndarray, slots: list[np.ndarray], counts: np.ndarray,
                cache: Array) -> Array:  # fmt: skip
        """Return hidden states [T, hidden].

        Args:
            tokens, positions: int [T], the requests' tokens one after the other.
            slots: per request the cache slots of its whole context.
            counts: tokens per request.
            cache: see :meth:`cache`; the step's keys and values are stored in it.
        """
        new = np.concatenate([own[len(own) - n :] for own, n in zip(slots, counts, strict=True)])
        cos_sin = _angles(positions, self._frequencies)
        h = self._weights["model.embed_tokens.weight"][tokens]
        for layer in range(self.layers):
            path = f"model.layers.{layer}"
            x = self._norm(h, f"{path}.input_layernorm")
            q = _rotate(self._heads(x, f"{path}.self_attn.q_proj", self.heads), cos_sin)
            cache[layer, 0, new] = _rotate(self._heads(x, f"{path}.self_attn.k_proj", self.kv_heads), cos_sin)
            cache[layer, 1, new] = self._heads(x, f"{path}.self_attn.v_proj", self.kv_heads)
            h = h + self._linear(self._attend(q, cache[layer], slots, counts), f"{path}.self_attn.o_proj")
            x = self._norm(h, f"{path}.post_attention_layernorm")
            gate, up = self._linear(x, f"{path}.mlp.gate_proj"), self._linear(x, f"{path}.mlp.up_proj")
            h = h + self._linear(gate / (1 + np.exp(-gate)) * up, f"{path}.mlp.down_proj")
        return self._norm(h, "model.norm")

    def logits(self, hidden: Array) -> Array:
        """Return [n, vocab]."""
        return hidden @ self._head.T

    def _linear(self, x: Array, path: str) -> Array:
        y = x @ self._weights[f"{path}.weight"].T
        bias = self._weights.get(f"{path}.bias")
        return y if bias is None else y + bias

    def _heads(self, x: Array, path: str, heads: int) -> Array:
        return self._linear(x, path).reshape(len(x), heads, self.size)

    def _norm(self, x: Array, path: str) -> Array:
        scale = 1.0 / np.sqrt(np.mean(x * x, -1, keepdims=True) + self._eps)
        return x * scale.astype(np.float32) * self._weights[f"{path}.weight"]

    def _attend(self, q: Array, cache: Array, slots: list[np.ndarray], counts: np.ndarray) -> Array:
        outputs, first, group = [], 0, self.heads // self.kv_heads
        for own, count in zip(slots, counts.tolist(), strict=True):
            k, v = np.repeat(cache[0, own], group, 1), np.repeat(cache[1, own], group, 1)
            scores = np.einsum("thd,shd->hts", q[first : first + count], k) * self.size**-0.5
            future = np.arange(len(own))[None, :] > np.arange(len(own) - count, len(own))[:, None]
            scores[:, future] = -np.inf
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            weights /= weights.sum(-1, keepdims=True)
            outputs.append(np.einsum("hts,shd->thd", weights, v).reshape(count, -1))
            first += count
        return np.concatenate(outputs)


def _angles(positions: np.ndarray, frequencies: np.ndarray) -> tuple[Array, Array]:
    angles = positions[:, None, None] * frequencies
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def _rotate(x: Array, cos_sin: tuple[Array, Array]) -> Array:
    """Rotate pairs (i, i + size / 2), as checkpoints of this family are stored (Su et al., 2021)."""
    (cos, sin), (a, b) = cos_sin, np.split(x, 2, -1)
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)
