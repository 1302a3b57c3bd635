"""The attention backend ``flashinfer``: FlashInfer's paged wrappers (Ye et al. 2025) over the cache of the Triton backend.

FlashInfer is optional, and compiles its kernels when they are first needed: for tens of seconds each, unless its binary
packages (``flashinfer-cubin``, ``flashinfer-jit-cache``) are installed beside it. That is why ``auto`` never takes it. Its
plans are made on the host, so steps are not prepared as graphs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Final

import flashinfer
import numpy as np
import torch

from hardpoint.contract.attention import AttentionLayerConfig, AttentionQuery, BatchView, HeadRotation
from hardpoint.contract.device import GraphSupport
from hardpoint_triton import rope_kernels
from hardpoint_triton.attention import TritonAttention, TritonLayer

if TYPE_CHECKING:
    from hardpoint.contract.device import Device
    from hardpoint.contract.kv import KVSpec
    from hardpoint.contract.limits import BatchLimits

DTYPES: Final = ("bfloat16", "float16")
HEAD_SIZES: Final = (64, 128, 256)
FIRST_ARCH: Final = 80
#: Bytes for partial results, as FlashInfer recommends.
WORKSPACE: Final = 2**27
#: Steps in flight at most, and one being planned: a wrapper's pinned buffer is read until its step's plan is uploaded.
DEPTH: Final = 3
#: Query heads per key/value head from which FlashInfer's decode is faster on tensor cores.
TENSOR_CORE_GROUP: Final = 4
LAYOUT: Final = "HND"


class FlashinferAttention(TritonAttention):
    """FlashInfer for whole prompts, chunks and decodes, with windows and soft cap."""

    name: ClassVar[str] = "flashinfer"

    def reject(self, query: AttentionQuery) -> list[str]:
        reasons = []
        if query.dtype not in DTYPES:
            reasons.append(f"computes in {' or '.join(DTYPES)}, not in {query.dtype}")
        if query.kv_dtype != query.dtype:
            reasons.append(f"is used with caches of the model's type only, not of {query.kv_dtype}")
        if query.head_size not in HEAD_SIZES:
            reasons.append(
                f"has kernels for heads of {', '.join(map(str, HEAD_SIZES))} elements, not {query.head_size}"
            )
        if query.sinks:
            reasons.append("has no attention sinks in the wrappers that are used")
        if int(query.arch.removeprefix("sm") if query.arch.startswith("sm") else 0) < FIRST_ARCH:
            reasons.append(f"needs an NVIDIA GPU from sm{FIRST_ARCH} on, not {query.arch}")
        return reasons

    def planner(self, device: Device, spec: KVSpec, block_size: int, limits: BatchLimits) -> FlashinferPlanner:  # type: ignore[override]
        return FlashinferPlanner(device.torch_device)

    def layer(self, config: AttentionLayerConfig, block_size: int) -> FlashinferLayer:
        return FlashinferLayer(config, block_size)


class Ring:
    """Wrappers of one kind, used in turn.

    Args:
        make: makes a wrapper.
    """

    def __init__(self, make: Callable[[], Any]) -> None:
        self._wrappers = [make() for _ in range(DEPTH)]
        self._uploaded: list[torch.cuda.Event | None] = [None] * DEPTH
        self._at = 0

    def planned(self, device: torch.device, **plan: Any) -> Any:
        """Return the next wrapper, planned."""
        at, self._at = self._at, (self._at + 1) % DEPTH
        done = self._uploaded[at]
        if done is not None:
            done.synchronize()
        self._wrappers[at].plan(**plan)
        if device.type == "cuda":
            self._uploaded[at] = done = torch.cuda.Event()
            done.record()
        return self._wrappers[at]


class FlashinferPlanner:
    """Makes page lists once per step; wrappers are planned per kind of layer, when its first layer asks."""

    graphs = GraphSupport.NONE

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._workspace = torch.zeros(WORKSPACE, dtype=torch.uint8, device=device)
        self._rings: dict[Any, Ring] = {}

    def plan(self, batch: BatchView) -> FlashinferPlan:
        at = batch.num_decodes
        decodes = Pages.of(batch, 0, at) if at else None
        chunks = Pages.of(batch, at, batch.num_requests) if at < batch.num_requests else None
        return FlashinferPlan(self, batch, decodes, chunks)

    def wrapper(self, config: AttentionLayerConfig, batch: BatchView, dtype: torch.dtype, pages: Pages) -> Any:
        """Return a wrapper planned for ``pages`` and the layer."""
        common = {
            "num_qo_heads": config.num_heads,
            "num_kv_heads": config.num_kv_heads,
            "page_size": batch.block_size,
            "sm_scale": config.scale,
            # FlashInfer counts the tokens before the current one.
            "window_left": -1 if config.window is None else config.window - 1,
            "logits_soft_cap": config.soft_cap or 0.0,
            "q_data_type": dtype,
            "kv_data_type": dtype,
        }
        if pages.decode:
            tensor_cores = config.num_heads // config.num_kv_heads >= TENSOR_CORE_GROUP
            ring = self._ring(
                ("decode", tensor_cores),
                lambda: flashinfer.BatchDecodeWithPagedKVCacheWrapper(
                    self._workspace, LAYOUT, use_tensor_cores=tensor_cores
                ),
            )
            return ring.planned(
                self._device,
                indptr=pages.starts,
                indices=pages.blocks.to(self._device, non_blocking=True),
                last_page_len=pages.last,
                head_dim=config.head_size,
                **common,
            )
        ring = self._ring(("prefill",), lambda: flashinfer.BatchPrefillWithPagedKVCacheWrapper(self._workspace, LAYOUT))
        return ring.planned(
            self._device,
            qo_indptr=pages.query_start,
            paged_kv_indptr=pages.starts,
            paged_kv_indices=pages.blocks.to(self._device, non_blocking=True),
            paged_kv_last_page_len=pages.last,
            head_dim_qk=config.head_size,
            causal=True,
            **common,
        )

    def _ring(self, key: Any, make: Callable[[], Any]) -> Ring:
        if key not in self._rings:
            self._rings[key] = Ring(make)
        return self._rings[key]


@dataclass(frozen=True, slots=True)
class Pages:
    """The pages of some of a step's requests, on the host.

    Attributes:
        decode: whether each request has one token.
        rows: the requests' tokens in the step.
        query_start: int32[n + 1], prefix sums of the requests' tokens.
        starts: int32[n + 1], prefix sums of the requests' pages.
        blocks: int32[pages].
        last: int32[n], tokens in each request's last page.
    """

    decode: bool
    rows: slice
    query_start: torch.Tensor
    starts: torch.Tensor
    blocks: torch.Tensor
    last: torch.Tensor

    @staticmethod
    def of(batch: BatchView, first: int, stop: int) -> Pages:
        lengths, size = batch.seq_lens_host[first:stop], batch.block_size
        counts = -(-lengths // size)
        table = batch.block_table_host[first:stop]
        held = np.arange(table.shape[1]) < counts[:, None]
        start = batch.query_start_host[first : stop + 1]
        return Pages(
            decode=first == 0 and stop == batch.num_decodes,
            rows=slice(int(start[0]), int(start[-1])),
            query_start=_tensor(start - start[0]),
            starts=_tensor(np.concatenate([[0], np.cumsum(counts)])),
            blocks=_tensor(table[held]),
            last=_tensor(lengths - (counts - 1) * size),
        )


def _tensor(array: np.ndarray[Any, Any]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, np.int32))


@dataclass(frozen=True, slots=True)
class FlashinferPlan:
    """One step for one KV group.

    Attributes:
        decodes, chunks: pages of the two parts, ``None`` for an empty one.
    """

    planner: FlashinferPlanner
    batch: BatchView
    decodes: Pages | None
    chunks: Pages | None
    _planned: dict[Any, Any] = field(default_factory=dict)

    def run(self, config: AttentionLayerConfig, q: torch.Tensor, kv: torch.Tensor, out: torch.Tensor) -> None:
        """Attend all tokens: q, out [T, heads, head size], contiguous."""
        for pages in (self.decodes, self.chunks):
            if pages is None:
                continue
            key = pages.decode, config.num_heads, config.scale, config.soft_cap, config.window, q.dtype
            if key not in self._planned:
                self._planned[key] = self.planner.wrapper(config, self.batch, q.dtype, pages)
            self._planned[key].run(q[pages.rows], (kv[0], kv[1]), out=out[pages.rows])


class FlashinferLayer(TritonLayer):
    """The kernels of one layer; norms, rotation and the write to the cache are Triton's."""

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
        config = self._config
        q, _, _ = rope_kernels.norm_rope_write(
            qkv, rotation, config.num_heads, config.num_kv_heads, config.head_size, positions, slots, kv, dense=True
        )
        return self.attend(q, kv, plan, sinks, {})

    def attend(
        self,
        q: torch.Tensor,
        kv: torch.Tensor,
        plan: Any,
        sinks: torch.Tensor | None,
        keywords: Mapping[str, Any],
        own: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Attend through the plan's wrappers; ``keywords`` and ``own`` are for Triton's kernels."""
        q = q.contiguous()
        out = torch.empty_like(q)
        plan.run(self._config, q, kv, out)
        return out
