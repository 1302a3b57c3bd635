"""Muon for the matrices inside the layers, AdamW for the embedding and the norms."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalize(update: Tensor) -> Tensor:
    """Push the singular values of a stack [count, rows, columns] towards 1 by five Newton-Schulz steps.

    bfloat16 is enough: the iteration is self-correcting, and only the direction of the update matters.
    """
    a, b, c = _COEFFICIENTS
    x = update.to(torch.bfloat16)
    tall = x.size(-2) > x.size(-1)
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).float()


class Optimizer:
    """Set the rates with `set_rate`, then `step`; gradients are left for the caller to clear.

    Both rates live in tensors, so that a captured CUDA graph of `step` sees new values.
    """

    def __init__(
        self,
        parameters: dict[str, Tensor],
        matrix_rate: float = 0.015,
        other_rate: float = 0.004,
        decay: float = 0.04,
        momentum: float = 0.95,
    ) -> None:
        groups: dict[torch.Size, list[Tensor]] = {}
        others: list[Tensor] = []
        for name, parameter in parameters.items():
            if parameter.ndim == 2 and "embed" not in name:
                groups.setdefault(parameter.shape, []).append(parameter)
            else:
                others.append(parameter)
        cuda, device = others[0].is_cuda, others[0].device
        self._groups = [(members, torch.zeros_like(torch.stack(members))) for members in groups.values()]
        self._orthogonalize = torch.compile(orthogonalize, dynamic=False) if cuda else orthogonalize
        self._matrix_rate, self._other_rate = matrix_rate, other_rate
        self._matrix, self._other = torch.zeros((), device=device), torch.zeros((), device=device)
        self._decay, self._momentum = decay, momentum
        betas = (0.9, 0.98)
        self._adam = torch.optim.AdamW(
            others, lr=self._other, betas=betas, eps=1e-10, weight_decay=0.0, fused=cuda, capturable=cuda
        )

    def set_rate(self, scale: float) -> None:
        """Scale both learning rates; 1.0 is the peak."""
        self._matrix.fill_(self._matrix_rate * scale)
        self._other.fill_(self._other_rate * scale)

    @torch.no_grad()
    def step(self) -> None:
        """Update every parameter from its gradient."""
        for members, velocity in self._groups:
            gradient = torch.stack([member.grad for member in members if member.grad is not None])
            velocity.lerp_(gradient, 1 - self._momentum)
            direction = self._orthogonalize(gradient.lerp(velocity, self._momentum))
            rows, columns = members[0].shape
            stretch = math.sqrt(max(1.0, rows / columns))
            torch._foreach_mul_(members, 1 - self._matrix * self._decay)
            torch._foreach_sub_(members, list((direction * (self._matrix * stretch)).unbind(0)))
        self._adam.step()


def schedule(step: int, steps: int, warmup: int = 200) -> float:
    """Linear warm-up, then a cosine to zero, as a factor on the learning rates."""
    warmup = max(1, min(warmup, steps // 10))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
