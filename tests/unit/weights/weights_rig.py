"""Loads a checkpoint on the host, with attention that is never run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from hardpoint.config import EngineConfig
from hardpoint.contract.device import Capabilities, DeviceInfo
from hardpoint.layers import LoadedModel, load_model
from hardpoint.ops import OpTable
from hardpoint.plugins import Catalogue
from hardpoint.testing.reference_attention import ReferenceAttention
from hardpoint.weights import ModelFiles, resolve


class Host:
    info = DeviceInfo(index=0, name="host", uuid="", arch="any", total_bytes=None)
    caps = Capabilities(dtypes=frozenset({"float32", "bfloat16"}))
    torch_device = torch.device("cpu")


class Alone:
    rank = 0
    size = 1


def files_of(folder: Path | str, catalogue: Catalogue | None = None, **settings: Any) -> ModelFiles:
    return resolve(EngineConfig.of(model=str(folder), **settings).model, catalogue or Catalogue())


def load(
    folder: Path, catalogue: Catalogue | None = None, kernels: tuple[Any, ...] = (), comm: Any = None, **settings: Any
) -> LoadedModel:
    catalogue = catalogue or Catalogue()
    config = EngineConfig.of(model=str(folder), **settings)
    files = resolve(config.model, catalogue)
    backend = ReferenceAttention()
    return load_model(
        config, files, catalogue, Host(), comm or Alone(), OpTable(), lambda layer: backend.layer(layer, 8), kernels
    )


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for name, value in changes.items():
        if value is ...:
            config.pop(name, None)
        else:
            config[name] = value
    path.write_text(json.dumps(config))
