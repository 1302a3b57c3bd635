"""vLLM's arguments that have no counterpart here: accepted where they change nothing, refused with the reason elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hardpoint.contract.errors import ConfigError


@dataclass(frozen=True, slots=True)
class _Foreign:
    """Values that mean what happens here anyway, and what to say to the others."""

    harmless: tuple[Any, ...]
    why: str


_ONE_DEVICE_GROUP = "only tensor parallelism exists here; use tensor_parallel_size"
_NOT_YET = "no installed plugin serves it"
_FOREIGN: Mapping[str, _Foreign] = {
    "tokenizer_mode": _Foreign(("auto", "hf"), "the fast tokenizer of transformers is used where there is one"),
    "tokenizer_revision": _Foreign((None,), "download that revision and name its folder with tokenizer"),
    "disable_log_stats": _Foreign((True,), "LLM logs no statistics; read get_metrics()"),
    "runner": _Foreign(("auto", "generate"), "only text generation exists here"),
    "convert": _Foreign(("auto", "none"), "only text generation exists here"),
    "task": _Foreign(("auto", "generate"), "only text generation exists here"),
    "generation_config": _Foreign(("auto",), "the checkpoint's own is read; pass SamplingParams to replace it"),
    "pipeline_parallel_size": _Foreign((1,), _ONE_DEVICE_GROUP),
    "data_parallel_size": _Foreign((1,), _ONE_DEVICE_GROUP),
    "enable_expert_parallel": _Foreign((False,), _ONE_DEVICE_GROUP),
    "disable_custom_all_reduce": _Foreign((False, True), ""),
    "cpu_offload_gb": _Foreign((0,), "weights are not offloaded; choose a smaller dtype or a quantized checkpoint"),
    "swap_space": _Foreign((0,), "preempted requests are recomputed, not swapped; leave it out"),
    "enable_lora": _Foreign((False,), _NOT_YET),
    "enable_prompt_embeds": _Foreign((False,), _NOT_YET),
    "speculative_config": _Foreign((None,), _NOT_YET),
    "pooler_config": _Foreign((None,), "only text generation exists here"),
    "compilation_config": _Foreign((None,), "steps are prepared by the platform; enforce_eager=True turns it off"),
    "limit_mm_per_prompt": _Foreign((None, {}), "models read text only"),
    "mm_processor_kwargs": _Foreign((None, {}), "models read text only"),
    "hf_token": _Foreign((None, False), "log in with `hf auth login`"),
    "download_dir": _Foreign((None,), "files are kept where huggingface_hub keeps them (HF_HOME)"),
}


def without_foreign(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``settings`` without vLLM's arguments that change nothing here.

    Raises:
        ConfigError: for one that would have to change something.
    """
    kept: dict[str, Any] = {}
    for name, value in settings.items():
        foreign = _FOREIGN.get(name)
        if foreign is None:
            kept[name] = value
        elif value not in foreign.harmless:
            raise ConfigError(f"{name}={value!r} has no meaning here: {foreign.why}")
    return kept
