"""Attention backends: paged attention over a block pool.

A backend says what it can serve (``reject``), how a block is laid out (``layout``), turns a batch into whatever its
kernels want (``AttentionPlanner``), and writes and reads the cache (``AttentionLayer``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Hashable

    import numpy as np
    import torch

    from hardpoint.contract.device import Device, GraphSupport
    from hardpoint.contract.kv import KVSpec
    from hardpoint.contract.limits import BatchLimits
    from hardpoint.contract.step import Int32s


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionQuery:
    """What would be asked of a backend: all that it needs to accept or to refuse."""

    head_size: int
    num_heads: int
    num_kv_heads: int
    dtype: str
    kv_dtype: str
    block_size: int
    arch: str
    window: int | None = None
    soft_cap: float | None = None
    sinks: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionLayerConfig:
    """One attention layer on one rank.

    Attributes:
        layer: index among the model's attention layers.
        num_heads: query heads of this rank; a multiple of ``num_kv_heads``.
        num_kv_heads: key/value heads of this rank.
        head_size: elements per head.
        scale: factor on query-key products.
        window: sliding window in tokens, the current one included; ``None`` is full attention.
        soft_cap: ``cap * tanh(score / cap)`` on scaled scores when set (Gemma 2).
        sinks: whether a learned logit per head joins the softmax's denominator (gpt-oss).
    """

    layer: int
    num_heads: int
    num_kv_heads: int
    head_size: int
    scale: float
    window: int | None = None
    soft_cap: float | None = None
    sinks: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class KVLayout:
    """How one layer's cache is laid out.

    Attributes:
        shape: of the layer's tensor for ``num_blocks`` blocks; ``block_axis`` indexes blocks.
        dtype: torch's name.
        block_axis: the axis of ``shape`` that indexes blocks.
        block_bytes: bytes of one block in one layer.
        slot_dtype: numpy's name of slot indices' type.
    """

    shape: tuple[int, ...]
    dtype: str
    block_axis: int
    block_bytes: int
    slot_dtype: str = "int64"


@dataclass(slots=True, kw_only=True)
class BatchView:
    """One step's batch for one KV group, in the plan's row order (decodes first).

    Arrays named ``*_host`` are numpy on the host; the others are tensors on the device. On a device of fixed shapes tensors of
    tokens may be longer than ``num_tokens``: the rest is padding whose slots are in the null block and whose results count
    for nothing.

    Attributes:
        num_requests: n.
        num_decodes: the first so many requests have one token each.
        num_tokens: T, all tokens of the step.
        query_start, query_start_host: int32[n + 1], prefix sums of the requests' tokens.
        seq_lens, seq_lens_host: int32[n], context length after this step.
        block_table: int32[n, width], block ids per request; entries past a request's blocks are unspecified.
        block_table_host: the same on the host.
        slots: slot_dtype[T], ``block id * block_size + offset`` where each token's key and value go.
        max_query_len, max_seq_len: maxima over the batch.
        block_size: tokens per block.
        variant: what ``StagedPlanner.stage`` returned, in a prepared step.
    """

    num_requests: int
    num_decodes: int
    num_tokens: int
    query_start: torch.Tensor
    query_start_host: np.ndarray[Any, Any]
    seq_lens: torch.Tensor
    seq_lens_host: np.ndarray[Any, Any]
    block_table: torch.Tensor
    block_table_host: np.ndarray[Any, Any]
    slots: torch.Tensor
    max_query_len: int
    max_seq_len: int
    block_size: int
    variant: Hashable = None


class AttentionPlanner(Protocol):
    """Turns a batch into what a backend's kernels want, once per step and KV group."""

    graphs: GraphSupport

    def plan(self, batch: BatchView) -> Any:
        """Return an opaque plan, passed to every layer of the group.

        A planner whose ``graphs`` is not ``NONE`` is also called while a decode step is prepared (see ``StepPreparer``).
        Then the tensors of ``batch`` keep their addresses but not their values, and its host arrays and maxima are upper
        bounds: such a plan may depend on shapes and on these bounds, and leaves the rest to the device.
        """


@runtime_checkable
class StagedPlanner(AttentionPlanner, Protocol):
    """A planner whose prepared steps come in variants, or read values that change from step to step."""

    def stage(self, rows: Int32s, block_table_host: Int32s, seq_lens_host: Int32s) -> Hashable:
        """Get ready for a prepared decode step and return its variant.

        Called on the host before every such step. The planner uploads what its plans read from static buffers of its own.
        Each pair of shape and variant is prepared once; there should be few.

        Args:
            rows: int32[n], the decoding rows of the persistent batch, in the step's order.
            block_table_host: int32[rows of the batch, width], to be indexed with ``rows``; entries past a row's blocks are
                unspecified.
            seq_lens_host: int32[n], context length after the step.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadRotation:
    """What happens to queries and keys between projection and attention.

    Attributes:
        q_weight, k_weight: [head_size] weights of a norm per head, or ``None``; float32 for a norm rounded once.
        eps, offset: of these norms, see ``hardpoint.ops.rms_norm``.
        cos_sin: [positions, rotated] cosines then sines, or ``None`` for no rotation.
        interleaved: whether rotated pairs are neighbours.
    """

    q_weight: torch.Tensor | None
    k_weight: torch.Tensor | None
    eps: float
    offset: float
    cos_sin: torch.Tensor | None
    interleaved: bool


class AttentionLayer(Protocol):
    """The kernels of one layer."""

    def write(self, kv: torch.Tensor, k: torch.Tensor, v: torch.Tensor, slots: torch.Tensor) -> None:
        """Store ``k`` and ``v`` ([T, num_kv_heads, head_size]) at ``slots`` ([T]) of the layer's cache."""

    def forward(self, q: torch.Tensor, kv: torch.Tensor, plan: Any, sinks: torch.Tensor | None) -> torch.Tensor:
        """Attend.

        Args:
            q: [T, num_heads, head_size], tokens of all requests one after the other.
            kv: the layer's cache in the backend's layout; the step's own keys and values are in it already.
            plan: what the planner returned for this step and group.
            sinks: float [num_heads] when the layer has sinks.

        Returns:
            [T, num_heads, head_size] in ``q``'s dtype.
        """


@runtime_checkable
class FusedAttentionLayer(AttentionLayer, Protocol):
    """A layer that takes the fused projection as it is. The core composes the same from ops, ``write`` and ``forward``."""

    def forward_fused(
        self,
        qkv: torch.Tensor,
        rotation: HeadRotation,
        positions: torch.Tensor,
        slots: torch.Tensor,
        kv: torch.Tensor,
        plan: Any,
        sinks: torch.Tensor | None,
    ) -> torch.Tensor:
        """Norm and rotate queries and keys, store keys and values, and attend.

        Args:
            qkv: [T, (num_heads + 2 * num_kv_heads) * head_size], queries first; may be overwritten.
            rotation: what to do with queries and keys.
            positions: int64[T].
            slots: as in ``write``.
            kv, plan, sinks: as in ``forward``.

        Returns:
            [T, num_heads, head_size] in ``qkv``'s dtype.
        """


@runtime_checkable
class ScaledAttentionLayer(AttentionLayer, Protocol):
    """A layer whose 8-bit cache can hold keys and values divided by a scale, so that they fill its range."""

    def set_scales(self, k_scale: float, v_scale: float) -> None:
        """Set what stored keys and values are multiplied with when they are read. Called before the first step, or never."""


@runtime_checkable
class AttentionBackend(Protocol):
    """Paged attention on one platform."""

    name: ClassVar[str]

    def reject(self, query: AttentionQuery) -> list[str]:
        """Return every reason why this backend cannot serve ``query``; empty when it can."""

    def block_sizes(self) -> tuple[int, ...]:
        """Return block sizes that the kernels take, the preferred one first; empty for any."""

    def layout(self, spec: KVSpec, block_size: int, num_blocks: int) -> KVLayout: ...
    def planner(self, device: Device, spec: KVSpec, block_size: int, limits: BatchLimits) -> AttentionPlanner: ...
    def layer(self, config: AttentionLayerConfig, block_size: int) -> AttentionLayer: ...
