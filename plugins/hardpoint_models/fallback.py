"""Any decoder that ``transformers`` runs, over our paged cache.

The model is first built without memory and run once, on no data: what its layers ask of attention says whether it can be
served, and with which heads, windows, scales and caps. Only then are weights read, by ``transformers`` itself, which knows
the checkpoint layouts of its models.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.initialization import no_init_weights
from transformers.modeling_outputs import BaseModelOutputWithPast

from hardpoint.contract.errors import CheckpointError, ConfigError, UnsupportedModelError
from hardpoint.layers import Attention, ModelBuild, Parameter, StepContext
from hardpoint.layers.parameters import Fill, copied
from hardpoint.weights.loader import open_checkpoint
from hardpoint_models.hf import hf_config, unsupported
from hardpoint_models.paged import NAME, AttentionCall, CurrentStep, PagedLayer, Probe, attach, register


class TransformersModel:
    """A ``transformers`` model whose attention is ours.

    Raises:
        UnsupportedModelError: when it cannot be served, before any weight is read, with every reason.
        ConfigError: for more than one rank.
    """

    def __init__(self, build: ModelBuild) -> None:
        files = build.files
        if build.comm.size > 1:
            raise ConfigError(
                f"tensor_parallel_size is {build.comm.size}; {files.architecture} runs through the transformers fallback, "
                "whose layers are not split. Use 1"
            )
        if build.quant is not None:
            raise UnsupportedModelError(
                f"{files.architecture} runs through the transformers fallback, which reads no {build.quant.name} weights; "
                "use a checkpoint in bfloat16"
            )
        register()
        self._config = hf_config(files.raw, files.folder, build.trust_remote_code)
        _pin_rope(self._config, build.max_model_len)
        self._config._attn_implementation = NAME
        self._step = CurrentStep()
        calls = _probe(self._config, build)
        self._layers = [(call.module, _attention(build, call)) for call in calls]
        self._decoder: nn.Module
        self._head: Callable[[torch.Tensor], Any]
        self._hidden = _Hidden()
        build.loader = lambda load_format: self._load(build, load_format)

    def __call__(self, input_ids: torch.Tensor, positions: torch.Tensor, step: StepContext) -> torch.Tensor:
        self._step.context = step
        output = self._decoder(
            input_ids=input_ids.unsqueeze(0), position_ids=positions.unsqueeze(0), use_cache=False, return_dict=True
        )
        hidden: torch.Tensor = output.last_hidden_state[0]
        return hidden

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        # The head's own forward runs, with its scales and caps, around a decoder that returns what it is given.
        self._hidden.value = hidden.unsqueeze(0)
        ids = torch.zeros((1, hidden.shape[0]), dtype=torch.int64, device=hidden.device)
        logits: torch.Tensor = self._head(ids).logits[0]
        return logits.float()

    def _load(self, build: ModelBuild, load_format: str) -> None:
        model = _random(self._config, build) if load_format == "dummy" else _read(self._config, build)
        _quiet(model.eval().requires_grad_(False))
        for name, tensor in {**dict(model.named_parameters()), **dict(model.named_buffers())}.items():
            fill: Fill = "zeros" if name.endswith("bias") else "ones" if tensor.dim() < 2 else "random"
            # Buffers are made by the model itself: they count as memory and keep their values.
            ways = ((copied(tensor.data, name, tuple(tensor.shape)),),) if isinstance(tensor, nn.Parameter) else ()
            if ways or load_format != "dummy":
                build.parameters.append(Parameter(name, tensor.data, ways, fill=fill))
        for name, attention in self._layers:
            attach(model.get_submodule(name), PagedLayer(attention, self._step))
        self._decoder = getattr(model, model.base_model_prefix)
        self._head = _head_of(model, self._hidden)


class _Hidden(nn.Module):
    """Stands in for a decoder and returns what it was given."""

    def __init__(self, value: torch.Tensor | None = None) -> None:
        super().__init__()
        self.value = value

    def forward(self, *args: Any, **options: Any) -> BaseModelOutputWithPast:
        return _Output(last_hidden_state=self.value)

    def decoder(self, *args: Any, **options: Any) -> BaseModelOutputWithPast:
        """Stand in for the inner decoder too, which some heads call past the model around it (OPT)."""
        return self.forward()


class _Output(BaseModelOutputWithPast):  # type: ignore[misc]
    """A decoder's output whose further fields, which families name differently, are absent."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("_"):
            raise AttributeError(name)


def _pin_rope(config: Any, max_model_len: int) -> None:
    """Make rotary angles depend on the configuration alone, where they would depend on the longest sequence at hand."""
    text = config.get_text_config(decoder=True)
    params = getattr(text, "rope_parameters", None) or {}
    for each in [p for p in (params, *params.values()) if isinstance(p, dict) and "rope_type" in p]:
        if each["rope_type"] == "longrope":
            original = each.get("original_max_position_embeddings") or text.max_position_embeddings
            chosen = each["long_factor"] if max_model_len > original else each["short_factor"]
            each["long_factor"] = each["short_factor"] = chosen
        elif each["rope_type"] == "dynamic":
            if max_model_len > text.max_position_embeddings:
                raise UnsupportedModelError(
                    "rope_type is 'dynamic', whose angles would depend on batch mates beyond "
                    f"{text.max_position_embeddings} tokens; lower --max-model-len to that"
                )
            each["rope_type"] = "default"  # which it is up to that length


def _probe(config: Any, build: ModelBuild) -> list[AttentionCall]:
    """Run the model on no data and return what its layers ask of attention, in order.

    Raises:
        UnsupportedModelError: when it cannot be served.
    """
    architecture = build.files.architecture
    config._experts_implementation = "batched_mm"  # the one without branches on data
    try:
        with torch.device("meta"), no_init_weights():
            model = AutoModelForCausalLM.from_config(
                config, dtype=build.dtype, trust_remote_code=build.trust_remote_code, attn_implementation=NAME
            )
        if "position_ids" not in inspect.signature(getattr(model, model.base_model_prefix).forward).parameters:
            raise unsupported(architecture, ["its decoder does not take positions"])
        probe = Probe({id(module): name for name, module in model.named_modules()})
        _quiet(model)
        for module in model.modules():
            attach(module, probe)
        ids = torch.zeros((1, 3), dtype=torch.int64, device="meta")
        hidden = model.eval()(input_ids=ids, position_ids=ids, use_cache=False, output_hidden_states=True)
        _head_of(model, _Hidden(hidden.hidden_states[-1]))(ids)
    except UnsupportedModelError:
        raise
    except Exception as error:
        own = isinstance(error, KeyError) and NAME in str(error)
        why = "it has attention code of its own" if own else f"transformers cannot run it so: {_cause(error)}"
        raise unsupported(architecture, [why]) from error
    finally:
        config._experts_implementation = None
    layers = config.get_text_config(decoder=True).num_hidden_layers
    names = [call.module for call in probe.calls]
    if len(names) != layers or len(set(names)) != layers:
        probe.reasons.append(
            f"{len(set(names))} of its {layers} layers use transformers' attention interface; the others mix tokens in a "
            "way of their own (recurrent state, convolution, built-in attention)"
        )
    if probe.reasons:
        raise unsupported(architecture, probe.reasons)
    return probe.calls


def _head_of(model: Any, hidden: _Hidden) -> Callable[[torch.Tensor], Any]:
    """Take the decoder out of a model; return what makes logits of ``hidden`` with all that the model does to them."""
    setattr(model, model.base_model_prefix, hidden)
    return lambda ids: model(input_ids=ids, use_cache=False, return_dict=True)


def _quiet(model: nn.Module) -> None:
    """Spare each forward pass the look for padding tokens, which reads ids back from the device; there is no padding."""
    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            module.warn_if_padding_and_no_attention_mask = _ignore


def _ignore(*args: Any, **options: Any) -> None:
    return None


def _attention(build: ModelBuild, call: AttentionCall) -> Attention:
    return Attention(
        build,
        num_heads=call.num_heads,
        num_kv_heads=call.num_kv_heads,
        head_size=call.head_size,
        scale=call.scale,
        window=call.window,
        soft_cap=call.soft_cap,
    )


def _read(config: Any, build: ModelBuild) -> Any:
    folder = build.files.folder
    with ExitStack() as stack:
        open_checkpoint(folder, stack)  # says clearly what is missing or damaged
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=build.dtype,
            attn_implementation=NAME,
            trust_remote_code=build.trust_remote_code,
            use_safetensors=True,
            local_files_only=True,
            ignore_mismatched_sizes=True,  # they are reported below, by name
            output_loading_info=True,
        )
    except Exception as error:
        raise CheckpointError(f"transformers cannot load {folder}: {error}") from error
    for name, found, wanted in sorted(info["mismatched_keys"]):
        raise CheckpointError(f"{name} in {folder} has shape {list(found)}; config.json asks for {list(wanted)}")
    for what, key in (
        ("lacks tensors that the model needs", "missing"),
        ("has tensors unknown to the model", "unexpected"),
    ):
        names = sorted(info[f"{key}_keys"])
        if names:
            raise CheckpointError(f"{folder} {what} ({len(names)}): {', '.join(names[:10])}")
    return model.to(build.device)


def _random(config: Any, build: ModelBuild) -> Any:
    with build.device, no_init_weights():
        return AutoModelForCausalLM.from_config(
            config, dtype=build.dtype, trust_remote_code=build.trust_remote_code, attn_implementation=NAME
        )


def _cause(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
