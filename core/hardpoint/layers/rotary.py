"""Tables of rotary angles for every scaling in use.

Frequencies follow ``transformers.modeling_rope_utils``. Two of its scalings look at the longest sequence that happens to
be in a batch; here a token's angles depend on its own position and on the configuration only, so that no answer depends
on batch mates or on how a prompt was cut:

- ``dynamic`` (NTK-aware, bloc97 and emozilla): position ``p`` uses the base for length ``max(p + 1, original)``. Decoding
  token by token in ``transformers`` does the same.
- ``longrope`` (Ding et al., 2024): the long factors when ``max_model_len`` exceeds the original context, else the short
  ones, as vLLM chooses.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from hardpoint.contract.errors import ConfigError, UnsupportedModelError

_CHUNK = 4096


@dataclass(frozen=True, slots=True)
class RopeSpec:
    """What a table is made from.

    Attributes:
        params: ``rope_parameters`` of the configuration: ``rope_type``, ``rope_theta`` and what the type needs.
        dim: elements of a head that rotate.
        context: ``max_position_embeddings``.
        max_model_len: positions in the table.
    """

    params: Mapping[str, Any]
    dim: int
    context: int
    max_model_len: int

    @property
    def base(self) -> float:
        return float(self.params.get("rope_theta") or 10000.0)

    @property
    def original(self) -> int:
        return int(self.params.get("original_max_position_embeddings") or self.context)

    def need(self, name: str) -> Any:
        """Return a parameter that the scaling cannot do without."""
        value = self.params.get(name)
        if value is None:
            kind = self.params.get("rope_type")
            raise ConfigError(
                f"rope_parameters of the model's config.json lack {name!r}, which rope_type {kind!r} needs; "
                f"add it with --hf-overrides '{{\"rope_parameters\": {{...}}}}'"
            )
        return value


def rope_parameters(config: Mapping[str, Any], layer_type: str | None = None) -> Mapping[str, Any]:
    """Return the rope parameters of a configuration (of one type of its layers where they differ).

    Old files spread them over ``rope_scaling``, ``rope_theta`` and ``partial_rotary_factor``.
    """
    params = config.get("rope_scaling") or config.get("rope_parameters") or {}
    if layer_type is not None and isinstance(params.get(layer_type), Mapping):
        params = params[layer_type]
    merged = dict(params)
    merged.setdefault("rope_type", merged.get("type") or "default")
    for name in ("rope_theta", "partial_rotary_factor", "original_max_position_embeddings"):
        if merged.get(name) is None and config.get(name) is not None:
            merged[name] = config[name]
    return merged


def cos_sin_table(spec: RopeSpec, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Return [max_model_len, dim]: cosines in the first half of a row, sines in the second, attention factor included.

    Raises:
        UnsupportedModelError: for a rope type that is not known.
        ConfigError: for one whose parameters are incomplete.
    """
    kind = str(spec.params.get("rope_type", "default"))
    if kind not in _FREQUENCIES:
        raise UnsupportedModelError(
            f"rope_type is {kind!r}; known are {', '.join(sorted(_FREQUENCIES))}. Try --model-impl transformers"
        )
    table = torch.empty((spec.max_model_len, spec.dim), dtype=dtype, device=device)
    frequencies, factor = _FREQUENCIES[kind](spec)
    for first in range(0, spec.max_model_len, _CHUNK):
        rows = table[first : first + _CHUNK]
        positions = torch.arange(first, first + len(rows), dtype=torch.float32)
        per_row = _dynamic_rows(spec, positions) if kind == "dynamic" else frequencies
        angles = positions[:, None] * per_row
        rows.copy_(torch.cat((angles.cos() * factor, angles.sin() * factor), -1))
    return table


def _exponents(dim: int) -> torch.Tensor:
    return torch.arange(0, dim, 2, dtype=torch.int64).to(torch.float32) / dim


def _default(spec: RopeSpec) -> tuple[torch.Tensor, float]:
    return 1.0 / (spec.base ** _exponents(spec.dim)), 1.0


def _linear(spec: RopeSpec) -> tuple[torch.Tensor, float]:
    return _default(spec)[0] / float(spec.need("factor")), 1.0


def _dynamic(spec: RopeSpec) -> tuple[torch.Tensor, float]:
    spec.need("factor")
    return _default(spec)


def _dynamic_rows(spec: RopeSpec, positions: torch.Tensor) -> torch.Tensor:
    """Return [positions, dim / 2]: each position's own frequencies."""
    factor, dim = float(spec.need("factor")), spec.dim
    length = (positions.double() + 1).clamp(min=spec.context)
    base = spec.base * ((factor * length / spec.context) - (factor - 1)) ** (dim / (dim - 2))
    return 1.0 / (base.float()[:, None] ** _exponents(dim))


def _llama3(spec: RopeSpec) -> tuple[torch.Tensor, float]:
    inv_freq = _default(spec)[0]
    factor, low, high = (float(spec.need(n)) for n in ("factor", "low_freq_factor", "high_freq_factor"))
    length = spec.original
    wavelength = 2 * math.pi / inv_freq
    scaled = torch.where(wavelength > length / low, inv_freq / factor, inv_freq)
    smooth = (length / wavelength - low) / (high - low)
    blended = (1 - smooth) * scaled / factor + smooth * scaled
    between = ~(wavelength < length / high) & ~(wavelength > length / low)
    return torch.where(between, blended, scaled), 1.0


def _yarn(spec: RopeSpec) -> tuple[torch.Tensor, float]:
    """YaRN (Peng et al., 2023)."""
    dim, base, params = spec.dim, spec.base, spec.params
    factor = float(params.get("factor") or spec.context / spec.original)

    def magnitude(weight: float = 1.0) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    attention = params.get("attention_factor")
    if attention is None:
        mscale, all_dim = params.get("mscale"), params.get("mscale_all_dim")
        attention = magnitude(mscale) / magnitude(all_dim) if mscale and all_dim else magnitude()

    def boundary(rotations: float) -> float:
        return (dim * math.log(spec.original / (rotations * 2 * math.pi))) / (2 * math.log(base))

    low, high = boundary(params.get("beta_fast") or 32), boundary(params.get("beta_slow") or 1)
    if params.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    if low == high:
        high += 0.001
    ramp = ((torch.arange(dim // 2, dtype=torch.float32) - low) / (high - low)).clamp(0, 1)
    powers = base ** _exponents(dim)
    return 1.0 / (factor * powers) * ramp + 1.0 / powers * (1 - ramp), float(attention)


def _longrope(spec: RopeSpec) -> tuple[torch.Tensor, float]:
    params = spec.params
    factor = float(params.get("factor") or spec.context / spec.original)
    attention = params.get("attention_factor")
    if attention is None:
        attention = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(spec.original))
    factors = spec.need("long_factor" if spec.max_model_len > spec.original else "short_factor")
    if len(factors) != spec.dim // 2:
        raise ConfigError(
            f"longrope factors in config.json have {len(factors)} entries; heads rotate {spec.dim} elements, so "
            f"{spec.dim // 2} are needed"
        )
    scale = torch.tensor(factors, dtype=torch.float32)
    return 1.0 / (scale * spec.base ** _exponents(spec.dim)), float(attention)


_FREQUENCIES: dict[str, Callable[[RopeSpec], tuple[torch.Tensor, float]]] = {
    "default": _default,
    "linear": _linear,
    "dynamic": _dynamic,
    "llama3": _llama3,
    "yarn": _yarn,
    "longrope": _longrope,
    "su": _longrope,
}
