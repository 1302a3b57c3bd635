"""From what the user said to a loaded engine: plugins chosen, settings adjusted, memory divided.

Every decision is recorded where it is made: adjustments in the configuration, refusals in the description.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from hardpoint.config import EngineConfig, apply_adjustments
from hardpoint.contract.collectives import World
from hardpoint.contract.device import Capabilities, DeviceInfo
from hardpoint.contract.errors import ConfigError
from hardpoint.contract.kv import KV_DTYPE_ALIASES, KVPlan
from hardpoint.contract.limits import BatchLimits
from hardpoint.contract.platform import Adjustment, ModelShape, Platform
from hardpoint.contract.policy import SchedulingPolicy
from hardpoint.contract.runner import Executor
from hardpoint.engine.announcer import Announcer
from hardpoint.engine.kv_groups import plan_kv
from hardpoint.engine.loop import EngineLoop
from hardpoint.engine.messages import EngineInfo
from hardpoint.engine.rehearsal import rehearse
from hardpoint.executor.launch import RunnerLaunch
from hardpoint.plugins import Catalogue, Events, Refusal
from hardpoint.plugins import choose as choose_plugin
from hardpoint.scheduler import Scheduler
from hardpoint.weights import ModelFiles, model_shape, resolve

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """Everything decided before a device is opened.

    Attributes:
        config: after adjustments.
        shape: the model's.
        platform: chosen by name or by probing.
        devices: one per rank.
        limits: bounds on a step.
        depth: steps in flight.
        events: plugins that listen.
        refused: platforms that were not chosen, with reasons.
    """

    config: EngineConfig
    files: ModelFiles
    shape: ModelShape
    catalogue: Catalogue
    platform: Platform
    devices: tuple[DeviceInfo, ...]
    limits: BatchLimits
    depth: int
    events: Events
    refused: tuple[Refusal, ...] = ()


def choose(config: EngineConfig) -> Setup:
    """Resolve the model, choose the platform and apply all adjustments.

    Raises:
        ConfigError, PluginError, CheckpointError: with the setting, the reason and the way out.
    """
    catalogue = Catalogue.of(config.plugins)
    events = Events.of(catalogue)
    events.emit("plugins_selected", selection=catalogue.selection())
    files = resolve(config.model, catalogue)
    shape = model_shape(files)
    chosen = choose_plugin(catalogue, "platforms", config.platform.platform)
    platform = cast("Platform", chosen.instance)
    devices = _choose_devices(config, platform)
    caps = platform.capabilities(devices[0])
    changes = [Adjustment(field="platform.platform", value=platform.name, reason="chosen by probing")]
    config = apply_adjustments(config, "hardpoint", [*changes, *_decide(config, shape, caps)])
    config = apply_adjustments(config, platform.name, platform.constrain(shape, config))
    limits = platform.limits(shape, config)
    settled = [
        Adjustment(field="scheduler.max_num_batched_tokens", value=limits.max_tokens, reason="the platform's limit"),
        Adjustment(field="scheduler.max_num_seqs", value=limits.max_requests, reason="the platform's limit"),
    ]
    config = apply_adjustments(config, platform.name, settled)
    events.emit("config_ready", config=config)
    return Setup(
        config=config,
        files=files,
        shape=shape,
        catalogue=catalogue,
        platform=platform,
        devices=devices,
        limits=limits,
        depth=2 if config.scheduler.async_scheduling else 1,
        events=events,
        refused=chosen.refused,
    )


def assemble(config: EngineConfig) -> tuple[EngineLoop, EngineInfo]:
    """Choose, load the model, divide the memory, and return the loop that is ready for requests.

    Raises:
        ConfigError, PluginError, CheckpointError, MemoryBudgetError: with the way out.
    """
    began = time.perf_counter()
    setup = choose(config)
    policy = cast("SchedulingPolicy", setup.catalogue.create("schedulers", setup.config.scheduler.scheduling_policy))
    setup.events.emit("engine_starting", config=setup.config)
    loaded = _load(setup)
    setup.events.emit("model_loaded", model=setup.files.name, seconds=loaded.seconds)
    try:
        loaded.executor.start(loaded.kv)
        if _rehearses(setup, loaded.executor):
            rehearse(
                _scheduler(setup, loaded, policy),
                loaded.executor,
                setup.limits,
                max_model_len=_length(loaded.config),
                vocab_size=setup.shape.vocab_size,
                depth=setup.depth,
            )
        scheduler = _scheduler(setup, loaded, policy)
        info = _info(setup, loaded, time.perf_counter() - began)
        _report(info)
        setup.events.emit("engine_started", info=info)
    except BaseException:
        loaded.executor.close()
        raise
    announcer = Announcer(setup.events) if setup.events.names else None
    return EngineLoop(scheduler, loaded.executor, depth=setup.depth, announcer=announcer), info


def _scheduler(setup: Setup, loaded: _Loaded, policy: SchedulingPolicy) -> Scheduler:
    return Scheduler(
        loaded.config,
        setup.limits,
        loaded.kv,
        max_model_len=_length(loaded.config),
        vocab_size=setup.shape.vocab_size,
        policy=policy,
    )


def _rehearses(setup: Setup, executor: Executor) -> bool:
    """Return whether first uses cost anything to speak of: on a device that runs by itself and prepares steps."""
    alone = len(setup.devices) == 1
    by_itself = setup.platform.capabilities(setup.devices[0]).asynchronous
    return alone and by_itself and executor.describe().get("prepared") is not None


def preview(config: EngineConfig) -> EngineInfo:
    """Return what :func:`assemble` would choose, without allocating a cache or taking requests.

    The model is built and its weights are made as ``config.model.load_format`` says; ``"dummy"`` needs no weight files.

    Raises:
        ConfigError, PluginError, CheckpointError, MemoryBudgetError: as :func:`assemble` would.
    """
    began = time.perf_counter()
    setup = choose(config)
    setup.catalogue.select("schedulers", setup.config.scheduler.scheduling_policy)
    loaded = _load(setup)
    try:
        return _info(setup, loaded, time.perf_counter() - began)
    finally:
        loaded.executor.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Loaded:
    """A loaded model and how its cache is to be divided; ``config`` has the block size, ``seconds`` is loading's."""

    config: EngineConfig
    executor: Executor
    kv: KVPlan
    seconds: float


def _load(setup: Setup) -> _Loaded:
    config, began = setup.config, time.perf_counter()
    executor = cast("Executor", setup.catalogue.create("executors", config.parallel.executor or "", _launches(setup)))
    try:
        executor.load()
        seconds = time.perf_counter() - began
        kv = plan_kv(
            executor.kv_specs(),
            executor.kv_budget(),
            executor.block_bytes,
            max_model_len=_length(config) + setup.limits.lookahead,
            max_requests=setup.limits.max_requests,
            max_tokens=setup.limits.max_tokens,
        )
    except BaseException:
        executor.close()
        raise
    settled = Adjustment(field="cache.block_size", value=kv.block_size, reason="the attention backend's preference")
    return _Loaded(config=apply_adjustments(config, "hardpoint", [settled]), executor=executor, kv=kv, seconds=seconds)


def _length(config: EngineConfig) -> int:
    return cast("int", config.model.max_model_len)


def _info(setup: Setup, loaded: _Loaded, seconds: float) -> EngineInfo:
    return EngineInfo(
        model=setup.files.name,
        max_model_len=_length(loaded.config),
        vocab_size=setup.shape.vocab_size,
        num_blocks=loaded.kv.num_blocks - 1,
        block_size=loaded.kv.block_size,
        config=loaded.config.to_dict(),
        description=_describe(setup, loaded, seconds),
    )


def _choose_devices(config: EngineConfig, platform: Platform) -> tuple[DeviceInfo, ...]:
    have, ranks = platform.devices(), config.parallel.tensor_parallel_size
    known = {info.index: info for info in have}
    wanted = config.platform.device_ids or tuple(info.index for info in have)[:ranks]
    if missing := [index for index in wanted if index not in known]:
        raise ConfigError(f"--device-ids names {missing}; platform {platform.name!r} has devices {sorted(known)}")
    if len(wanted) < ranks:
        raise ConfigError(
            f"--tensor-parallel-size {ranks} needs {ranks} devices; platform {platform.name!r} has {len(wanted)}"
        )
    return tuple(known[index] for index in wanted[:ranks])


def _decide(config: EngineConfig, shape: ModelShape, caps: Capabilities) -> Sequence[Adjustment]:
    """Decide what ``auto`` and ``None`` mean, from the model and the device's capabilities."""
    changes = []
    dtype = config.model.dtype
    if dtype == "auto":
        dtype = shape.dtype if shape.dtype in caps.dtypes else caps.preferred_dtype
        reason = "the checkpoint's type" if dtype == shape.dtype else f"the device cannot run {shape.dtype}"
        changes.append(Adjustment(field="model.dtype", value=dtype, reason=reason))
    elif dtype not in caps.dtypes:
        raise ConfigError(f"--dtype {dtype} cannot run on this device; it runs {', '.join(sorted(caps.dtypes))}")
    wanted = config.cache.kv_cache_dtype
    kv_dtype = KV_DTYPE_ALIASES.get(wanted, wanted)
    if kv_dtype != "auto" and kv_dtype not in caps.kv_dtypes and kv_dtype != dtype:
        short = {alias for alias, name in KV_DTYPE_ALIASES.items() if name in caps.kv_dtypes}
        offered = ", ".join(sorted({"auto", *caps.kv_dtypes, *short}))
        raise ConfigError(f"--kv-cache-dtype {wanted} cannot run on this device; it offers {offered}")
    if kv_dtype != wanted:
        changes.append(Adjustment(field="cache.kv_cache_dtype", value=kv_dtype, reason=f"the type called {wanted}"))
    length = config.model.max_model_len
    if length is None:
        changes.append(Adjustment(field="model.max_model_len", value=shape.context, reason="the model's context"))
    elif length > shape.context:
        raise ConfigError(
            f"--max-model-len {length} is longer than the model's context of {shape.context} tokens; lower it, or raise "
            "max_position_embeddings (and rope scaling) with --hf-overrides if you know that the model bears it"
        )
    if config.parallel.executor is None:
        one = config.parallel.tensor_parallel_size == 1
        value, reason = ("in_process", "one rank") if one else ("multi_process", "several ranks")
        changes.append(Adjustment(field="parallel.executor", value=value, reason=reason))
    if config.scheduler.async_scheduling is None:
        reason = "the device runs by itself" if caps.asynchronous else "the device runs on the host's own cores"
        changes.append(Adjustment(field="scheduler.async_scheduling", value=caps.asynchronous, reason=reason))
    return changes


def _launches(setup: Setup) -> tuple[RunnerLaunch, ...]:
    return tuple(
        RunnerLaunch(
            config=setup.config,
            limits=setup.limits,
            world=World(rank=rank, size=len(setup.devices)),
            device_index=info.index,
            selection=setup.catalogue.selection(),
        )
        for rank, info in enumerate(setup.devices)
    )


def _describe(setup: Setup, loaded: _Loaded, seconds: float) -> dict[str, Any]:
    config, kv = loaded.config, loaded.kv
    return {
        **loaded.executor.describe(),
        "platforms_refused": {r.name: r.reason for r in setup.refused},
        "adjustments": [
            {"field": a.field, "old": a.old, "new": a.new, "plugin": a.plugin, "reason": a.reason}
            for a in config.adjustments
        ],
        "kv": {
            "block_size": kv.block_size,
            "num_blocks": kv.num_blocks - 1,
            "groups": [{"window": group.window, "layers": list(group.layers)} for group in kv.groups],
        },
        "seconds_to_load": round(loaded.seconds, 3),
        "seconds_to_ready": round(seconds, 3),
    }


def _report(info: EngineInfo) -> None:
    memory = ", ".join(f"{what} {count / 2**20:.0f} MiB" for what, count in info.description.get("memory", []))
    prepared = info.description.get("prepared")
    if prepared is not None:
        sizes = sorted({size for kind in prepared["kinds"] for size in kind["sizes"]})
        log.info(
            "decode steps of %s rows are prepared (%.1f s); others up to %d rows follow as they are used or time allows",
            ", ".join(map(str, sizes)),
            prepared["seconds"],
            max(prepared["possible"], default=0),
        )
    log.info(
        "%s is ready after %.1f s (model loaded after %.1f s): context %d tokens, %d cache blocks of %d tokens; memory: %s",
        info.model,
        info.description["seconds_to_ready"],
        info.description["seconds_to_load"],
        info.max_model_len,
        info.num_blocks,
        info.block_size,
        memory,
    )
