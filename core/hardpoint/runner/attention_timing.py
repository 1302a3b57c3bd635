"""How fast attention backends are on the device at hand, measured once and remembered in the user's cache directory."""

from __future__ import annotations

import json
import logging
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final, Literal

import numpy as np
import torch

from hardpoint.contract.attention import (
    AttentionBackend,
    AttentionLayerConfig,
    AttentionQuery,
    BatchView,
    FusedAttentionLayer,
    HeadRotation,
)
from hardpoint.contract.device import Device
from hardpoint.contract.kv import KVSpec
from hardpoint.contract.limits import BatchLimits

Part = Literal["prefill", "decode"]

_log = logging.getLogger(__name__)
#: What is timed, as (requests, context, new tokens): prompts that fill a quarter of a large step, and a busy server's decodes.
BATCHES: Final[dict[Part, tuple[int, int, int]]] = {"prefill": (2, 1024, 1024), "decode": (32, 1024, 1)}
_CALLS: Final = 8
_ROUNDS: Final = 8
#: Plans of a step before it is timed, for backends that prepare what comes again.
_STEPS: Final = 256


class AttentionTimings:
    """Times by chip, versions and kind of layer, kept as JSON.

    Args:
        device: where to measure; synchronized around each measurement.
        packages: distributions whose versions a time depends on; those not installed are left out.
        path: the file; by default ``~/.cache/hardpoint/attention.json``.
    """

    def __init__(self, device: Device, packages: Sequence[str] = (), path: Path | None = None) -> None:
        self._device = device
        self._path = path or Path.home() / ".cache" / "hardpoint" / "attention.json"
        info = device.info
        self._chip = [info.name, info.arch, *(f"{name} {found}" for name in packages if (found := _version(name)))]

    def compare(
        self, backends: Mapping[str, AttentionBackend], query: AttentionQuery, part: Part
    ) -> tuple[dict[str, float], dict[str, Exception]]:
        """Return seconds of one layer's call on a batch of ``BATCHES`` by name, and what went wrong with those that failed.

        Times come from the file where all of them are known; only what was measured side by side is compared.
        """
        key = json.dumps([*self._chip, part, BATCHES[part], sorted(backends), asdict(query)])
        known = self._read().get(key)
        if known is not None and known.keys() == backends.keys():
            return known, {}
        times, failures = measure(backends, self._device, query, part)
        if not failures:
            # Read again: other processes measure, too.
            self._write({**self._read(), key: times})
        return times, failures

    def _read(self) -> dict[str, dict[str, float]]:
        try:
            found = json.loads(self._path.read_text())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            _log.warning("attention times in %s cannot be read (%s); measuring again", self._path, error)
            return {}
        entries = found.items() if isinstance(found, dict) else ()
        return {
            key: times
            for key, times in entries
            if isinstance(times, dict) and all(isinstance(value, float) and value > 0 for value in times.values())
        }

    def _write(self, times: dict[str, dict[str, float]]) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=self._path.parent, delete=False) as file:
                json.dump(times, file, indent=1)
            os.replace(file.name, self._path)
        except OSError as error:
            _log.warning("attention times cannot be kept in %s (%s); the next start measures again", self._path, error)


def measure(
    backends: Mapping[str, AttentionBackend], device: Device, query: AttentionQuery, part: Part
) -> tuple[dict[str, float], dict[str, Exception]]:
    """Return the shortest time of one layer's call in seconds by name, and the errors of those that failed.

    Kernels are compiled before. Backends take turns, so that whatever else slows the device slows all of them.
    """
    calls: dict[str, Callable[[], torch.Tensor]] = {}
    failures: dict[str, Exception] = {}
    for name, backend in backends.items():
        try:
            call = uniform_call(backend, device, query, *BATCHES[part], steps=_STEPS)
            call()
            device.synchronize()
        except Exception as error:  # whatever a plugin does wrong is its own reason not to be taken
            failures[name] = error
        else:
            calls[name] = call
    times = dict.fromkeys(calls, float("inf"))
    for _ in range(_ROUNDS):
        for name, call in calls.items():
            device.synchronize()
            start = time.perf_counter()
            for _ in range(_CALLS):
                call()
            device.synchronize()
            times[name] = min(times[name], (time.perf_counter() - start) / _CALLS)
    return times, failures


def uniform_call(
    backend: AttentionBackend,
    device: Device,
    query: AttentionQuery,
    requests: int,
    context: int,
    new: int,
    *,
    steps: int = 1,
) -> Callable[[], torch.Tensor]:
    """Return a call of one layer on requests of equal length whose blocks lie in order.

    Norms aside it does all that a layer does between its projections: rotation, write to the cache, attention.

    Args:
        requests: in the step; decodes where ``new`` is 1.
        context, new: tokens of each after the step, and of those the step's.
        steps: how often the step is planned, for backends that prepare what comes again.
    """
    place, dtype = device.torch_device, getattr(torch, query.dtype)
    spec = KVSpec(num_kv_heads=query.num_kv_heads, head_size=query.head_size, dtype=query.kv_dtype, window=query.window)
    width = -(-context // query.block_size)
    layout = backend.layout(spec, query.block_size, 1 + requests * width)
    cache = torch.zeros(layout.shape, dtype=getattr(torch, layout.dtype), device=place)
    table = np.arange(1, 1 + requests * width, dtype=np.int32).reshape(requests, width)
    start = np.arange(requests + 1, dtype=np.int32) * new
    lengths = np.full(requests, context, np.int32)
    positions = np.tile(np.arange(context - new, context), requests)
    slots = np.repeat(table, new, 0)[np.arange(requests * new), positions // query.block_size] * query.block_size
    slots = (slots + positions % query.block_size).astype(layout.slot_dtype)
    view = BatchView(
        num_requests=requests,
        num_decodes=requests if new == 1 else 0,
        num_tokens=requests * new,
        query_start=torch.from_numpy(start).to(place),
        query_start_host=start,
        seq_lens=torch.from_numpy(lengths).to(place),
        seq_lens_host=lengths,
        block_table=torch.from_numpy(table).to(place),
        block_table_host=table,
        slots=torch.from_numpy(slots).to(place),
        max_query_len=new,
        max_seq_len=context,
        block_size=query.block_size,
    )
    limits = BatchLimits(max_tokens=requests * new, max_requests=requests)
    planner = backend.planner(device, spec, query.block_size, limits)
    plan = [planner.plan(view) for _ in range(steps)][-1]
    config = AttentionLayerConfig(
        layer=0,
        num_heads=query.num_heads,
        num_kv_heads=query.num_kv_heads,
        head_size=query.head_size,
        scale=query.head_size**-0.5,
        window=query.window,
        soft_cap=query.soft_cap,
        sinks=query.sinks,
    )
    layer = backend.layer(config, query.block_size)
    sinks = torch.zeros(query.num_heads, dtype=dtype, device=place) if query.sinks else None
    qkv = torch.randn(len(positions), query.num_heads + 2 * query.num_kv_heads, query.head_size, device=place)
    qkv = qkv.to(dtype)
    if isinstance(layer, FusedAttentionLayer):
        flat, where = qkv.flatten(1), torch.from_numpy(positions).to(place)
        angle = torch.zeros(context, query.head_size, device=place)
        angle[:, : query.head_size // 2] = 1.0
        rotation = HeadRotation(q_weight=None, k_weight=None, eps=0.0, offset=0.0, cos_sin=angle, interleaved=False)
        return lambda: layer.forward_fused(flat, rotation, where, view.slots, cache, plan, sinks)
    q, k, v = torch.split(qkv, [query.num_heads, query.num_kv_heads, query.num_kv_heads], 1)

    def separately() -> torch.Tensor:
        layer.write(cache, k, v, view.slots)
        return layer.forward(q, cache, plan, sinks)

    return separately


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
