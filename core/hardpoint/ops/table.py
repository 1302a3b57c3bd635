"""Binding: which body each op runs on a device, decided once."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from hardpoint.contract.errors import ConfigError
from hardpoint.ops import activation, decode, norm, ranking, sampling
from hardpoint.ops import embed as embedding
from hardpoint.ops import moe as experts
from hardpoint.ops import rotary as position
from hardpoint.ops.registry import OPS

if TYPE_CHECKING:
    from hardpoint.contract.ops import OpProvider

REFERENCE: Final = "reference"


class OpTable:
    """Every op as an attribute that is a plain callable: ``table.rms_norm(x, weight, eps)``.

    For each op the user's choice comes first, then the providers in their order, then the reference.

    Args:
        providers: in the platform's order of preference.
        overrides: op's name -> provider's name (or ``"reference"``), from the user.
        arch: the device's architecture; providers decide by it.
        dtype: the activations' element type by torch's name.

    Raises:
        ConfigError: when an override names no op, no provider, an op that the provider lacks, or one that it refuses.
    """

    if TYPE_CHECKING:
        # Types for the attributes that __init__ sets; tests hold this list against the registry.
        rms_norm = norm.rms_norm
        layer_norm = norm.layer_norm
        rotary = position.rotary
        qk_norm_rope = position.qk_norm_rope
        silu_mul = activation.silu_mul
        gelu_mul = activation.gelu_mul
        swiglu_oai = activation.swiglu_oai
        soft_cap = activation.soft_cap
        embed = embedding.embed
        topk_router = experts.topk_router
        moe = experts.moe
        routed_moe = experts.routed_moe
        decode_inputs = decode.decode_inputs
        keep_tokens = decode.keep_tokens
        best_token = ranking.best_token
        top_k_tokens = ranking.top_k_tokens
        apply_penalties = sampling.apply_penalties
        sample_full = sampling.sample_full
        sample_top_k = sampling.sample_top_k
        top_logprobs = ranking.top_logprobs
        gather_logprobs = ranking.gather_logprobs

    def __init__(
        self,
        providers: Sequence[OpProvider] = (),
        overrides: Mapping[str, str] | None = None,
        *,
        arch: str = "",
        dtype: str = "float32",
    ) -> None:
        chosen = dict(overrides or {})
        for name in chosen:
            if name not in OPS:
                near = difflib.get_close_matches(name, OPS, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"ops are {', '.join(sorted(OPS))}"
                raise ConfigError(f"op_providers names the op {name!r}, which does not exist; {hint}")
        self._choices: list[dict[str, str]] = []
        for name in OPS:
            body, provider, reason = _bind(name, providers, chosen.get(name), arch, dtype)
            setattr(self, name, body)
            self._choices.append({"op": name, "provider": provider, "reason": reason})

    def host_reads(self, name: str) -> bool:
        """Return whether the body bound to ``name`` waits for values on the device."""
        return OPS[name].host_reads and getattr(self, name) is OPS[name].reference

    def explain(self) -> list[dict[str, str]]:
        """Return ``{"op", "provider", "reason"}`` for every op, reasons for refused providers included."""
        return [dict(choice) for choice in self._choices]


def _bind(
    name: str, providers: Sequence[OpProvider], override: str | None, arch: str, dtype: str
) -> tuple[Callable[..., Any], str, str]:
    """Return the body, its provider's name and why it was chosen."""
    if override == REFERENCE:
        return OPS[name].reference, REFERENCE, "chosen by the user"
    if override is not None:
        return _overridden(name, providers, override, arch, dtype), override, "chosen by the user"
    refused: list[str] = []
    for provider in providers:
        if name not in provider.ops:
            continue
        reasons = provider.reject(name, arch, dtype)
        if not reasons:
            return provider.ops[name], provider.name, "; ".join(refused) or "first in the platform's order"
        refused.append(f"{provider.name}: {', '.join(reasons)}")
    return OPS[name].reference, REFERENCE, "; ".join(refused) or "no provider has it"


def _overridden(name: str, providers: Sequence[OpProvider], override: str, arch: str, dtype: str) -> Callable[..., Any]:
    provider = next((p for p in providers if p.name == override), None)
    if provider is None or name not in provider.ops:
        offered = [REFERENCE, *(p.name for p in providers if name in p.ops)]
        fault = "which this platform does not use" if provider is None else "which has no such op"
        raise ConfigError(
            f"op_providers wants {name!r} from provider {override!r}, {fault}; choose one of {', '.join(offered)}"
        )
    reasons = provider.reject(name, arch, dtype)
    if reasons:
        raise ConfigError(
            f"op_providers wants {name!r} from provider {override!r}, which refuses: {', '.join(reasons)}; "
            f"choose another or leave the op out"
        )
    return provider.ops[name]
