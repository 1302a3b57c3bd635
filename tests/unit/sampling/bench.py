"""What the sampling tests share: a host device, row starts, and a naive sampler to compare with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from hardpoint.contract.device import Capabilities, DeviceInfo
from hardpoint.contract.step import RowStart
from hardpoint.ops import OpTable
from hardpoint.params import SamplingParams
from hardpoint.runner.sampling import Sampled, Sampler


@dataclass(frozen=True)
class DoneCopy:
    """A copy that is there already."""

    array: np.ndarray[Any, Any]

    def ready(self) -> bool:
        return True

    def result(self) -> np.ndarray[Any, Any]:
        return self.array


class HostDevice:
    """The part of the device contract that sampling uses, on the host."""

    info = DeviceInfo(index=0, name="host", uuid="", arch="any", total_bytes=None)
    caps = Capabilities()
    torch_device = torch.device("cpu")

    def to_host(self, tensor: torch.Tensor) -> DoneCopy:
        return DoneCopy(tensor.clone().numpy())


def sampler(vocab: int, max_rows: int = 16, ops: Any = None) -> Sampler:
    return Sampler(max_rows, vocab, HostDevice(), ops or OpTable())  # type: ignore[arg-type]


def start(
    row: int,
    params: SamplingParams,
    prompt: list[int] | None = None,
    output: list[int] | None = None,
    eos: tuple[int, ...] = (),
) -> RowStart:
    prompt = [0] if prompt is None else prompt
    return RowStart(
        row=row,
        handle=row,
        token_ids=np.array(prompt + (output or []), np.int32),
        num_prompt=len(prompt),
        num_computed=0,
        blocks=(),
        params=params if params.seed is not None else params.replace(seed=1000 + row),
        eos_token_ids=eos,
    )


def sample(target: Sampler, logits: torch.Tensor, rows: list[int], lengths: list[int]) -> Sampled:
    """Sample from a copy of ``logits``."""
    return target.sample(logits.clone(), np.array(rows, np.int32), np.array(lengths, np.int32))


def one(params: SamplingParams, logits: list[float] | torch.Tensor, **kw: Any) -> int:
    """Return the token that a lone request samples first."""
    logits = torch.as_tensor(logits, dtype=torch.float32).reshape(1, -1)
    target = sampler(logits.shape[1])
    begin = start(0, params, **kw)
    target.start(begin)
    return int(sample(target, logits, [0], [len(begin.token_ids)]).tokens[0])


def probabilities(
    logits: torch.Tensor, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the exact distribution in float64, with ties ordered by id; written for clearness, token by token."""
    scaled = logits.double().numpy() / temperature
    p = np.exp(scaled - scaled.max())
    p[p < min_p] = 0.0
    order = sorted(range(len(p)), key=lambda token: (-scaled[token], token))
    if top_k > 0:
        p[order[top_k:]] = 0.0
    total = p.sum()
    kept = p.copy()
    for token in order:
        if p[p > p[token]].sum() >= top_p * total:
            kept[token] = 0.0
    return kept / kept.sum()
