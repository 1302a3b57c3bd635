"""The parts of the configuration. Fields are settings; each carries its help text and, where vLLM has one, its flag."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hardpoint.contract.errors import ConfigError


def setting(
    default: Any,
    help: str,
    *,
    flag: str | None = None,
    short: str | None = None,
    choices: tuple[str, ...] = (),
    aliases: tuple[str, ...] = (),
) -> Any:
    """Return a dataclass field that is also a command-line flag.

    Args:
        default: the default; a callable is used as a default factory.
        help: the flag's help text.
        flag: the flag without dashes, when it is not the field's name.
        short: a second flag that begins with one dash, without it.
        choices: the values allowed, when they are a closed set.
        aliases: further keyword names under which ``LLM(...)`` accepts the setting.
    """
    metadata = {"help": help, "flag": flag, "short": short, "choices": choices, "aliases": aliases}
    if callable(default):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


def _at_least(owner: object, name: str, least: int) -> None:
    value = getattr(owner, name)
    if value is not None and value < least:
        raise ConfigError(f"{name} is {value}; it must be at least {least}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Which model, and how its files are read."""

    model: str = setting("hardpoint/demo", "Model: a folder, a hub id, or the name of a bundled checkpoint.")
    served_model_name: tuple[str, ...] = setting(
        (), "Names under which the server offers the model; the first one is answered."
    )
    tokenizer: str | None = setting(None, "Tokenizer folder or hub id, if it is not the model's.")
    skip_tokenizer_init: bool = setting(False, "Load no tokenizer: prompts are token ids and no text is made.")
    revision: str | None = setting(None, "Branch, tag or commit of the model on the hub.")
    trust_remote_code: bool = setting(False, "Run code from the model's repository (transformers fallback only).")
    dtype: str = setting(
        "auto", "Element type of weights and activations.", choices=("auto", "float32", "bfloat16", "float16")
    )
    max_model_len: int | None = setting(
        None, "Longest sequence in tokens, prompt and output together; the model's own by default."
    )
    load_format: str = setting(
        "auto", "How weights are made: from safetensors, or random.", choices=("auto", "safetensors", "dummy")
    )
    quantization: str | None = setting(None, "Quantization method; the checkpoint's own by default.", short="q")
    hf_overrides: dict[str, Any] = setting(dict, "JSON with values that replace those of config.json.")
    chat_template: str | None = setting(None, "File with a Jinja chat template, or the template itself.")
    seed: int = setting(0, "Seed of random weights and of requests that bring none.")
    model_impl: str = setting(
        "auto",
        "Native code, the transformers fallback, or native where it exists.",
        choices=("auto", "native", "transformers"),
    )

    def __post_init__(self) -> None:
        _at_least(self, "max_model_len", 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheConfig:
    """The KV cache."""

    block_size: int | None = setting(None, "Tokens in one cache block; the attention backend's preference by default.")
    kv_cache_memory: int | None = setting(
        None,
        "Bytes for the KV cache (accepts 2G, 512M); overrides --memory-fraction.",
        aliases=("kv_cache_memory_bytes",),
    )
    memory_fraction: float = setting(
        0.9,
        "Fraction of the device's free memory that weights and cache may take.",
        aliases=("gpu_memory_utilization",),
    )
    num_blocks: int | None = setting(
        None,
        "Number of cache blocks, overriding every memory setting.",
        flag="num-gpu-blocks-override",
        aliases=("num_gpu_blocks_override",),
    )
    enable_prefix_caching: bool = setting(True, "Reuse the cache of equal prompt prefixes.")
    kv_cache_dtype: str = setting(
        "auto", "Element type of the cache: torch's name, fp8 (fp8_e4m3) or fp8_e5m2; auto is the model's."
    )

    def __post_init__(self) -> None:
        _at_least(self, "block_size", 1)
        _at_least(self, "kv_cache_memory", 1)
        _at_least(self, "num_blocks", 2)
        if not 0.0 < self.memory_fraction <= 1.0:
            raise ConfigError(f"memory_fraction is {self.memory_fraction}; it must be above 0 and at most 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerConfig:
    """Which requests run how many tokens in a step."""

    max_num_seqs: int = setting(256, "Sequences that run at the same time.")
    max_num_batched_tokens: int | None = setting(None, "Tokens in one step; by default what suits the platform.")
    enable_chunked_prefill: bool = setting(True, "Split long prompts over several steps.")
    long_prefill_token_threshold: int = setting(0, "Longest prefill chunk of one request in a step; 0 is no bound.")
    scheduling_policy: str = setting("fcfs", "Order of the queue: a scheduler plugin's name.")
    async_scheduling: bool | None = setting(
        None, "Plan the next step before the last one's tokens are known; by default where the device runs by itself."
    )
    max_waiting: int | None = setting(
        None, "Queued requests beyond which new ones are refused; unlimited by default.", flag="max-queue"
    )

    def __post_init__(self) -> None:
        _at_least(self, "max_num_seqs", 1)
        _at_least(self, "max_num_batched_tokens", 1)
        _at_least(self, "long_prefill_token_threshold", 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ParallelConfig:
    """How many devices, and how they are driven."""

    tensor_parallel_size: int = setting(1, "Ranks over which every layer is split.", short="tp")
    executor: str | None = setting(
        None,
        "Executor plugin; in_process for one rank, else multi_process.",
        flag="distributed-executor-backend",
        aliases=("distributed_executor_backend",),
    )

    def __post_init__(self) -> None:
        _at_least(self, "tensor_parallel_size", 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlatformConfig:
    """What runs the model."""

    platform: str = setting(
        "auto", "Platform plugin by name, see `hardpoint plugins`; auto takes the first one that has a device here."
    )
    device_ids: tuple[int, ...] = setting((), "Devices to use, by index; the first ones by default.")
    attention_backend: str = setting("auto", "Attention backend plugin.")
    prefill_attention_backend: str | None = setting(None, "Attention backend for prompts, when another one than above.")
    decode_attention_backend: str | None = setting(None, "Attention backend for decodes, when another one than above.")
    measure_attention: bool = setting(
        True,
        "Of several attention backends take the fastest here, measured once; otherwise the platform's first.",
    )
    op_providers: dict[str, str] = setting(dict, "JSON from an op's name to the provider to use for it.")
    linear_kernel: str = setting("auto", "Linear kernel plugin.", aliases=("linear_backend",), flag="linear-backend")
    threads: int | None = setting(None, "Intra-op threads of a CPU worker; by default one per core that it may use.")
    enforce_eager: bool = setting(False, "Prepare no steps: no graphs, no compilation.")


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginConfig:
    """Which installed plugins may be loaded at all."""

    allow_plugins: tuple[str, ...] = setting(
        (), "Distributions beside hardpoint whose plugins may be loaded; '*' is all."
    )
    prefer_plugins: dict[str, str] = setting(dict, "JSON from 'kind:name' to the distribution to take it from.")
