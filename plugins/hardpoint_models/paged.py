"""Our paged attention as an attention function of ``transformers``.

The function is registered under a name of its own and finds what it needs on the attention module that calls it, so that
two models in one process know nothing of each other and no class is changed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import nn

from hardpoint.layers import Attention, StepContext

NAME: Final = "hardpoint_paged"
_ATTRIBUTE: Final = "hardpoint_paged"
_KNOWN_TENSORS: Final = frozenset({"position_ids", "cache_position"})


@dataclass(slots=True)
class CurrentStep:
    """The step under way in one model."""

    context: StepContext | None = None


@dataclass(frozen=True, slots=True)
class AttentionCall:
    """What a model asked of attention in one layer."""

    module: str
    num_heads: int
    num_kv_heads: int
    head_size: int
    scale: float
    window: int | None
    soft_cap: float | None


@dataclass(slots=True)
class Probe:
    """Records the calls of one forward pass, and what about them cannot be served."""

    names: dict[int, str]
    calls: list[AttentionCall] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)

    def record(
        self, module: nn.Module, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: Any, options: dict[str, Any]
    ) -> torch.Tensor:
        """Note one call; return a result of the right shape."""
        size = q.shape[-1]
        if k.shape[-1] != size or v.shape[-1] != size:
            self._refuse(f"heads of queries, keys and values differ in size ({size}, {k.shape[-1]}, {v.shape[-1]})")
        if k.shape[-2] != q.shape[-2]:
            self._refuse("keys and queries differ in number: it attends to something beside its own tokens")
        if mask is not None:
            self._refuse("it makes an attention mask of its own")
        if not options.get("is_causal", getattr(module, "is_causal", True)):
            self._refuse("it attends in both directions")
        for name, value in options.items():
            if isinstance(value, torch.Tensor) and name not in _KNOWN_TENSORS:
                self._refuse(f"it gives attention a tensor {name!r}, which paged attention does not take")
        scale = options.get("scaling")
        self.calls.append(
            AttentionCall(
                module=self.names[id(module)],
                num_heads=q.shape[1],
                num_kv_heads=k.shape[1],
                head_size=size,
                scale=size**-0.5 if scale is None else float(scale),
                window=options.get("sliding_window"),
                soft_cap=options.get("softcap"),
            )
        )
        return q.transpose(1, 2).contiguous()

    def _refuse(self, reason: str) -> None:
        if reason not in self.reasons:
            self.reasons.append(reason)


@dataclass(frozen=True, slots=True)
class PagedLayer:
    """One attention module's way to its cache."""

    attention: Attention
    step: CurrentStep

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """Attend from [1, heads, T, head_size]; returns [1, T, heads, head_size]."""
        if self.step.context is None:
            raise RuntimeError("a paged model ran outside of a step")
        q, k, v = (x[0].transpose(0, 1) for x in (q, k, v))
        return self.attention.attend(q, k, v, self.step.context).view(1, *q.shape)


def attach(module: nn.Module, value: Probe | PagedLayer) -> None:
    """Let a module's attention calls go to ``value``."""
    object.__setattr__(module, _ATTRIBUTE, value)


def paged_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """The attention function that ``transformers`` calls."""
    found = getattr(module, _ATTRIBUTE, None)
    if isinstance(found, PagedLayer):
        return found.attend(query, key, value), None
    if isinstance(found, Probe):
        return found.record(module, query, key, value, attention_mask, options), None
    raise RuntimeError(f"{type(module).__name__} asks for paged attention and belongs to no model of Hardpoint")


def register() -> None:
    """Make the function known to ``transformers`` under :data:`NAME`."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, paged_attention)
