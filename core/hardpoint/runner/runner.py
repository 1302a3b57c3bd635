"""The runner for torch devices: one rank of one model over a contract ``Device``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import numpy as np
import torch

from hardpoint.contract.attention import AttentionPlanner, KVLayout
from hardpoint.contract.device import Device, Profiler
from hardpoint.contract.errors import MemoryBudgetError
from hardpoint.contract.kv import KVBudget, KVPlan, KVSpec
from hardpoint.contract.ops import OpProvider
from hardpoint.contract.platform import Platform
from hardpoint.contract.quant import LinearKernel
from hardpoint.contract.runner import Pending
from hardpoint.contract.step import Int32s, StepPlan, TokenLogprobs
from hardpoint.executor.launch import RunnerLaunch
from hardpoint.layers import LoadedModel, StepContext, load_model
from hardpoint.ops import OpTable
from hardpoint.plugins import Catalogue
from hardpoint.runner.attention_choice import AttentionChoice
from hardpoint.runner.batch import PersistentBatch
from hardpoint.runner.decodes import PreparedDecodes
from hardpoint.runner.inputs import prepare
from hardpoint.runner.kv_pool import KVPool
from hardpoint.runner.memory import MemoryReport, activation_bytes
from hardpoint.runner.padding import Padding
from hardpoint.runner.pending import PendingStep
from hardpoint.runner.profiling import profiler_of
from hardpoint.runner.prompt_logprobs import PromptLogprobs
from hardpoint.runner.sampling import Sampler
from hardpoint.runner.shortage import Shortage
from hardpoint.spans import Spans
from hardpoint.weights import model_shape, resolve


class TorchRunner:
    """Builds a model on a device and turns plans into tokens.

    Args:
        launch: the rank's orders.
        catalogue: where plugins come from.
        platform: the device's platform.
        device: opened by the platform in this process.
    """

    def __init__(self, launch: RunnerLaunch, catalogue: Catalogue, platform: Platform, device: Device) -> None:
        self._launch = launch
        self._config = launch.config
        self._catalogue = catalogue
        self._platform = platform
        self._device = device
        self._factory = device.communicators(launch.world)
        self._comm = self._factory.group("tp", tuple(range(launch.world.size)))
        self._files = resolve(self._config.model, catalogue)
        self._shape = model_shape(self._files)
        self._ops = self._op_table()
        self._attention: AttentionChoice
        self._loaded: LoadedModel
        self._pool: KVPool
        self._batch: PersistentBatch
        self._planners: tuple[AttentionPlanner, ...] = ()
        self._decodes: PreparedDecodes | None = None
        self._sampler: Sampler
        self._shortage: Shortage
        self._profiler: Profiler | None = None
        self._spans = Spans("runner")
        self._first_turn: torch.Tensor
        self._padding: Padding
        self._logits: Callable[[torch.Tensor], torch.Tensor]
        self._prompt_logprobs: PromptLogprobs
        self._memory = MemoryReport(device)

    @torch.inference_mode()
    def load(self) -> None:
        """Build the model, fill its weights, choose attention backends and linear kernels."""
        config, dtype = self._config, self._config.model.dtype
        self._device.seed(config.model.seed)
        self._attention = AttentionChoice(config, self._catalogue, self._platform, self._device, dtype)
        self._loaded = load_model(
            config,
            self._files,
            self._catalogue,
            self._device,
            self._comm,
            self._ops,
            self._attention,
            self._linear_kernels(),
        )

    def kv_specs(self) -> tuple[KVSpec, ...]:
        return tuple(layer.kv_spec for layer in self._loaded.attention_layers)

    def block_bytes(self, spec: KVSpec, block_size: int) -> int:
        backend = self._attention.chosen[self.kv_specs().index(spec)] if self._attention.chosen else None
        if backend is None:
            return spec.token_bytes * block_size
        return backend.layout(spec, block_size, 1).block_bytes

    def kv_budget(self) -> KVBudget:
        """Return what is left for the cache, with the lines that explain it.

        Raises:
            MemoryBudgetError: when nothing is left, or more is asked for than is free.
        """
        cache, memory = self._config.cache, self._device.memory()
        weights = self._loaded.weight_bytes
        activations = activation_bytes(
            self._shape, self._launch.limits, self._launch.world.size, self._config.model.dtype
        )
        self._memory.set("weights", weights)
        self._memory.plan("activations, at most", activations)
        if memory.free is not None:
            self._memory.plan("free after loading", memory.free)
        asked = cache.kv_cache_memory
        if cache.num_blocks is not None:
            return KVBudget(block_size=self._attention.block_size, num_blocks=cache.num_blocks, report=self._report())
        if asked is None:
            if memory.free is None:
                raise MemoryBudgetError("the device cannot tell its free memory; set --kv-cache-memory")
            # Weights are loaded already: the fraction is of what was free before them.
            asked = int((memory.free + weights) * cache.memory_fraction) - weights - activations
            if asked <= 0:
                raise MemoryBudgetError(
                    f"nothing is left for the KV cache: {_gib(memory.free)} GiB are free after loading "
                    f"{_gib(weights)} GiB of weights, activations may take {_gib(activations)} GiB; lower "
                    "--max-num-batched-tokens, raise --memory-fraction, or use a smaller model or dtype"
                )
        elif memory.free is not None and asked > memory.free:
            raise MemoryBudgetError(
                f"--kv-cache-memory asks for {_gib(asked)} GiB, {_gib(memory.free)} GiB are free after loading "
                f"{_gib(weights)} GiB of weights; ask for less"
            )
        self._memory.plan("KV cache, at most", asked)
        return KVBudget(block_size=self._attention.block_size, bytes=asked, report=self._report())

    def _report(self) -> tuple[tuple[str, int], ...]:
        return tuple(self._memory.lines())

    @torch.inference_mode()
    def start(self, kv: KVPlan) -> None:
        """Allocate cache and batch, bind every layer to its part of the cache, and prepare the first steps."""
        layouts: list[KVLayout] = []
        for spec, backend in zip(self.kv_specs(), self._attention.chosen, strict=True):
            layouts.append(backend.layout(spec, kv.block_size, kv.num_blocks))
        self._pool = KVPool(kv, tuple(layouts), self._device)
        self._memory.set("KV cache", self._pool.bytes)
        with self._memory.measured("batch, sampling, attention's buffers"):
            self._make_batch(kv, layouts)
        with self._memory.measured("prepared steps", tensors=False):
            self._prepare_steps(kv.block_size)

    def _make_batch(self, kv: KVPlan, layouts: list[KVLayout]) -> None:
        planners = []
        for index, group in enumerate(kv.groups):
            for layer in group.layers:
                self._loaded.attention_layers[layer].bind(self._pool.layer(layer), index)
            if group.layers:
                first = group.layers[0]
                planners.append(
                    self._attention.chosen[first].planner(
                        self._device, self.kv_specs()[first], kv.block_size, self._launch.limits
                    )
                )
        self._planners = tuple(planners)
        limits, length = self._launch.limits, self._loaded.max_model_len
        self._batch = PersistentBatch(
            max_rows=limits.max_requests,
            max_blocks=-(-(length + limits.lookahead) // kv.block_size) + 1,
            slot_dtypes=[layouts[group.layers[0]].slot_dtype if group.layers else "int64" for group in kv.groups],
            device=self._device,
        )
        self._sampler = Sampler(limits.max_requests, self._shape.vocab_size, self._device, self._ops)
        self._shortage = Shortage(
            self._device, self._run, self._batch.tables, block_size=kv.block_size, max_tokens=limits.max_tokens
        )
        self._first_turn = torch.zeros(1, dtype=torch.int32, device=self._device.torch_device)
        self._padding = Padding(limits, self._device.caps.static_shapes)
        self._logits = self._padding.logits(self._loaded.model.logits)
        self._prompt_logprobs = PromptLogprobs(self._sampler, self._logits)

    def _prepare_steps(self, block_size: int) -> None:
        waits = self._shape.num_experts > 0 and self._ops.host_reads("moe")
        if not self._config.platform.enforce_eager and not waits:
            self._decodes = PreparedDecodes.of(
                self._device,
                self._launch.limits,
                self._loaded.model,
                self._planners,
                self._batch,
                block_size,
                self._sampler,
                self._ops,
                alone=self._launch.world.size == 1,
            )

    @torch.inference_mode()
    def step(self, plan: StepPlan) -> Pending:
        """Run one step; returns without waiting for an asynchronous device. What does not fit in memory runs in parts."""
        with self._spans("apply changes"):
            for row in plan.stops:
                self._sampler.stop(int(row))
            self._batch.apply(plan)
            for start in plan.starts:
                self._sampler.start(start)
            self._pool.copy(plan.copies)
        if self._launch.world.size == 1:
            return self._shortage.run(plan)
        # A rank that runs a step in parts would leave the others waiting for it.
        return self._run(plan)

    def _run(self, plan: StepPlan) -> Pending:
        """Run the rows of a plan that has been applied."""
        if self._decodes is not None and self._decodes.takes(plan):
            with self._spans("prepared step"):
                prepared = self._decode(self._decodes, plan)
            if prepared is not None:
                return prepared
        with self._spans("prepare"):
            inputs = prepare(plan, self._batch, self._pool.plan.block_size, self._padding.tokens(plan))
            context = StepContext(
                plans=[planner.plan(view) for planner, view in zip(self._planners, inputs.views, strict=True)],
                slots=[view.slots for view in inputs.views],
            )
        with self._spans("forward"):
            hidden = self._loaded.model(inputs.token_ids, inputs.positions, context)
        with self._spans("sample"):
            prompts = self._prompt_logprobs.of(plan, self._batch, hidden)
            if not len(inputs.sample_at):
                return PendingStep(plan, inputs.sample_at, None, dict, prompts)
            logits = self._logits(hidden.index_select(0, inputs.sample_index))
            return self._sample(plan, logits, inputs.sample_at, prompts)

    def _decode(self, decodes: PreparedDecodes, plan: StepPlan) -> PendingStep | None:
        """Run a prepared step; ``None`` where there is none for it yet."""
        every = np.arange(len(plan.rows), dtype=np.int32)
        kind = self._sampler.kind(plan.rows)
        if kind is None:
            logits = decodes.logits(plan)
            return None if logits is None else self._sample(plan, logits, every, dict)
        tokens = decodes.tokens(plan, kind)
        return None if tokens is None else PendingStep(plan, every, self._device.to_host(tokens), dict, dict)

    @torch.inference_mode()
    def idle(self) -> bool:
        """Prepare one more step, if steps are prepared."""
        if self._decodes is None:
            return False
        with self._memory.measured("prepared steps", tensors=False):
            return self._decodes.idle()

    @torch.inference_mode()
    def recover(self) -> str | None:
        """Forget all rows after a step that raised; the device's word decides whether work goes on."""
        if (broken := self._device.health()) is not None:
            return f"device {self._device.info.name} cannot go on: {broken}"
        if self._launch.world.size > 1:
            return "ranks cannot be brought back into step"
        for row in range(self._launch.limits.max_requests):
            self._sampler.stop(row)
        self._batch.clear()
        return None

    def start_profile(self) -> None:
        """Begin to record.

        Raises:
            RuntimeError: when a profile is being recorded.
        """
        if self._profiler is not None:
            raise RuntimeError("a profile is being recorded")
        self._profiler = profiler_of(self._device)
        self._profiler.start()
        self._spans.start()

    def stop_profile(self, path: str) -> None:
        """Write the trace.

        Raises:
            RuntimeError: when none was started.
        """
        profiler, self._profiler = self._profiler, None
        if profiler is None:
            raise RuntimeError("no profile was started")
        recorded = self._spans.stop()
        profiler.stop(path)
        self._spans.write_into(path, recorded)

    def _sample(
        self, plan: StepPlan, logits: torch.Tensor, at: Int32s, prompts: Callable[[], dict[int, TokenLogprobs]]
    ) -> PendingStep:
        """Sample for the plan's positions ``at`` and keep the tokens on the device as the rows' next inputs."""
        rows, lengths = plan.rows[at], (plan.num_computed + plan.num_tokens)[at]
        sampled = self._sampler.sample(logits, rows, lengths)
        rows_there, lengths_there = self._batch.upload.together(rows, lengths)
        results = torch.empty((1, len(at)), dtype=torch.int32, device=logits.device)
        self._ops.keep_tokens(
            self._batch.newest, results, self._first_turn, rows_there, lengths_there, sampled.tokens, sampled.best
        )
        return PendingStep(plan, at, self._device.to_host(results[0]), sampled.logprobs, prompts)

    def describe(self) -> Mapping[str, Any]:
        """Return what was chosen, as plain data."""
        return {
            "platform": self._platform.name,
            "device": self._device.info.name,
            "arch": self._device.info.arch,
            "driver": self._device.info.driver,
            "ops": self._ops.explain(),
            "attention": self._attention.describe(),
            "memory": [list(line) for line in self._report()],
            "prepared": self._describe_prepared(),
            "model": self._loaded.description,
        }

    def _describe_prepared(self) -> dict[str, Any] | None:
        """Return which steps are prepared, before the start which will be; ``None`` where none ever is."""
        if self._decodes is not None:
            return self._decodes.describe()
        preparer = None if self._planners or self._config.platform.enforce_eager else self._device.preparer()
        if preparer is None:
            return None
        limits = self._launch.limits
        first, possible = ([s.requests for s in shapes] for shapes in (preparer.first(limits), preparer.shapes(limits)))
        return {"kinds": [], "first": first, "possible": possible, "refused": [], "seconds": 0.0}

    def close(self) -> None:
        """Give device and groups back."""
        self._comm.close()
        self._factory.close()
        self._device.close()

    def _op_table(self) -> OpTable:
        names = [*self._config.platform.op_providers.values(), *self._platform.op_providers()]
        providers = [
            cast("OpProvider", self._catalogue.create("ops", name))
            for name in dict.fromkeys(names)
            if name != "reference"
        ]
        return OpTable(
            providers,
            self._config.platform.op_providers,
            arch=self._device.info.arch,
            dtype=self._config.model.dtype,
        )

    def _linear_kernels(self) -> list[LinearKernel]:
        wanted = self._config.platform.linear_kernel
        names = self._platform.linear_kernels() if wanted == "auto" else (wanted,)
        return [cast("LinearKernel", self._catalogue.create("linear_kernels", name)) for name in names]


def _gib(count: int) -> str:
    return f"{count / 2**30:.2f}"
