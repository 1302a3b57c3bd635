"""The Llama architecture as training runs it: flat token rows, few kernels, parameters named as transformers names them.

Inference never uses this file. It exists because training wants fused pieces of constant shape; a test
checks that it computes what `LlamaForCausalLM` computes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Shape:
    """Sizes of the model; `tests` and quick trials use smaller ones."""

    vocabulary: int = 1280
    hidden: int = 256
    layers: int = 6
    heads: int = 8
    kv_heads: int = 4
    head_size: int = 32
    intermediate: int = 512
    context: int = 2048
    theta: float = 10000.0
    epsilon: float = 1e-5


def initial_parameters(shape: Shape, generator: torch.Generator) -> dict[str, Tensor]:
    """Fresh float32 parameters on the CPU, keyed by the names of a transformers checkpoint.

    Matrices that write to the residual stream start small, so that every layer starts near the identity.
    """

    def normal(rows: int, columns: int, scale: float) -> Tensor:
        return torch.randn(rows, columns, generator=generator) * scale

    width, out = shape.hidden, shape.heads * shape.head_size
    small = 0.02 / math.sqrt(2 * shape.layers)
    found = {"model.embed_tokens.weight": normal(shape.vocabulary, width, 0.02), "model.norm.weight": torch.ones(width)}
    for layer in range(shape.layers):
        prefix = f"model.layers.{layer}."
        kv = shape.kv_heads * shape.head_size
        found |= {
            prefix + "input_layernorm.weight": torch.ones(width),
            prefix + "self_attn.q_proj.weight": normal(out, width, 0.04),
            prefix + "self_attn.k_proj.weight": normal(kv, width, 0.04),
            prefix + "self_attn.v_proj.weight": normal(kv, width, 0.04),
            prefix + "self_attn.o_proj.weight": normal(width, out, small),
            prefix + "post_attention_layernorm.weight": torch.ones(width),
            prefix + "mlp.gate_proj.weight": normal(shape.intermediate, width, 0.04),
            prefix + "mlp.up_proj.weight": normal(shape.intermediate, width, 0.04),
            prefix + "mlp.down_proj.weight": normal(width, shape.intermediate, small),
        }
    return found


def rope_table(shape: Shape, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines, each [context, head_size], halves repeated as transformers' rotate_half expects."""
    steps = torch.arange(0, shape.head_size, 2, dtype=torch.float32) / shape.head_size
    angles = torch.outer(torch.arange(shape.context, dtype=torch.float32), shape.theta**-steps)
    angles = torch.cat((angles, angles), dim=-1).to(device)
    return angles.cos(), angles.sin()


def _norm(x: Tensor, weight: Tensor, epsilon: float, dtype: torch.dtype) -> Tensor:
    x = x.float()
    return (weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + epsilon))).to(dtype)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


class Network:
    """Forward pass and loss over rows of one length; `compute` is the dtype of the matrix products."""

    def __init__(self, shape: Shape, parameters: dict[str, Tensor], compute: torch.dtype, fuse: bool) -> None:
        self.shape = shape
        self.parameters = parameters
        self.compute = compute
        self.cos, self.sin = rope_table(shape, parameters["model.norm.weight"].device)
        wrap = partial(torch.compile, dynamic=False) if fuse else (lambda function: function)
        self._project = wrap(self._project_rows)
        self._finish = wrap(self._finish_rows)
        self._score = wrap(self._score_rows)

    def _project_rows(
        self, x: Tensor, norm: Tensor, q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """From x [N, hidden] to rotated queries, keys and values, each [N, heads, head_size]; kv heads repeated."""
        shape, kind = self.shape, self.compute
        h = _norm(x, norm, shape.epsilon, kind)
        queries = F.linear(h, q.to(kind)).view(-1, shape.heads, shape.head_size)
        keys = F.linear(h, k.to(kind)).view(-1, shape.kv_heads, shape.head_size)
        values = F.linear(h, v.to(kind)).view(-1, shape.kv_heads, shape.head_size)
        cos, sin = cos.unsqueeze(1).to(kind), sin.unsqueeze(1).to(kind)
        group = shape.heads // shape.kv_heads
        keys = _rotate(keys, cos, sin).repeat_interleave(group, dim=1)
        return _rotate(queries, cos, sin), keys, values.repeat_interleave(group, dim=1)

    def _finish_rows(
        self, x: Tensor, mixed: Tensor, o: Tensor, norm: Tensor, gate: Tensor, up: Tensor, down: Tensor
    ) -> Tensor:
        """Attention output projection and the MLP, both added to x [N, hidden] (float32)."""
        kind = self.compute
        x = x + F.linear(mixed, o.to(kind)).float()
        h = _norm(x, norm, self.shape.epsilon, kind)
        return x + F.linear(F.silu(F.linear(h, gate.to(kind))) * F.linear(h, up.to(kind)), down.to(kind)).float()

    def _score_rows(self, x: Tensor, norm: Tensor, embedding: Tensor, targets: Tensor) -> Tensor:
        """Summed cross entropy over the targets [N] that are not -1."""
        logits = F.linear(_norm(x, norm, self.shape.epsilon, self.compute), embedding.to(self.compute)).float()
        return F.cross_entropy(logits, targets, ignore_index=-1, reduction="sum")

    def hidden(self, tokens: Tensor) -> Tensor:
        """Residual stream [rows * length, hidden] before the last norm, for tokens [rows, length]."""
        rows, length = tokens.shape
        shape, weights = self.shape, self.parameters
        cos, sin = self.cos[:length].repeat(rows, 1), self.sin[:length].repeat(rows, 1)
        x = F.embedding(tokens.reshape(-1), weights["model.embed_tokens.weight"])
        for layer in range(shape.layers):
            prefix = f"model.layers.{layer}."
            attention = [weights[f"{prefix}self_attn.{name}_proj.weight"] for name in "qkv"]
            parts = self._project(x, weights[prefix + "input_layernorm.weight"], *attention, cos, sin)
            q, k, v = (part.view(rows, length, shape.heads, shape.head_size).transpose(1, 2) for part in parts)
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(rows * length, -1)
            mlp = [weights[f"{prefix}mlp.{name}_proj.weight"] for name in ("gate", "up", "down")]
            after = (weights[prefix + "self_attn.o_proj.weight"], weights[prefix + "post_attention_layernorm.weight"])
            x = self._finish(x, mixed, *after, *mlp)
        return x

    def loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Mean cross entropy over targets [rows, length]; -1 marks positions without loss."""
        weights = self.parameters
        total = self._score(
            self.hidden(tokens), weights["model.norm.weight"], weights["model.embed_tokens.weight"], targets.reshape(-1)
        )
        return total / (targets >= 0).sum().clamp(min=1)

    def logits(self, tokens: Tensor) -> Tensor:
        """Logits [rows * length, vocabulary]; for tests."""
        weights = self.parameters
        h = _norm(self.hidden(tokens), weights["model.norm.weight"], self.shape.epsilon, self.compute)
        return F.linear(h, weights["model.embed_tokens.weight"].to(self.compute))
