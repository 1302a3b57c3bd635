"""Runs a loaded model over a paged cache by hand: no scheduler, no runner."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hardpoint.config import EngineConfig
from hardpoint.contract.attention import BatchView
from hardpoint.contract.device import Capabilities, DeviceInfo
from hardpoint.layers import LoadedModel, StepContext, load_model
from hardpoint.ops import OpTable
from hardpoint.plugins import Catalogue
from hardpoint.testing.reference_attention import ReferenceAttention
from hardpoint.weights import resolve

BLOCK = 8


@dataclass
class PlainDevice:
    """As much of a device as loading a model needs."""

    info = DeviceInfo(index=0, name="host", uuid="", arch="any", total_bytes=None)
    caps = Capabilities(dtypes=frozenset({"float32", "bfloat16"}))
    torch_device = torch.device("cpu")


class Alone:
    """The communicator of a world of one; every collective is an error."""

    rank = 0
    size = 1


def load(folder: Path | str, comm: Any = None, **settings: Any) -> LoadedModel:
    config = EngineConfig.of(model=str(folder), **{"dtype": "float32", **settings})
    catalogue = Catalogue()
    files = resolve(config.model, catalogue)
    backend = ReferenceAttention()
    return load_model(
        config,
        files,
        catalogue,
        PlainDevice(),
        comm or Alone(),
        OpTable(),
        lambda layer: backend.layer(layer, BLOCK),
    )


class Session:
    """Sequences over one pool of blocks, handed out in a scattered order."""

    def __init__(self, loaded: LoadedModel, max_blocks: int = 128) -> None:
        self.loaded = loaded
        backend = ReferenceAttention()
        for layer in loaded.attention_layers:
            layout = backend.layout(layer.kv_spec, BLOCK, max_blocks)
            # Whatever must not be read is not a number.
            cache = torch.full(layout.shape, torch.nan, dtype=getattr(torch, layout.dtype))
            layer.bind(cache, 0)
        self._free = list(np.random.default_rng(0).permutation(np.arange(1, max_blocks)))
        self._tables: dict[int, list[int]] = {}
        self._lengths: dict[int, int] = {}

    @torch.inference_mode()
    def step(self, batch: dict[int, list[int]]) -> torch.Tensor:
        """Run the given tokens of each sequence; return logits [T, vocab] of all of them."""
        view, ids, positions = self._view(batch)
        step = StepContext(plans=[view], slots=[view.slots])
        hidden = self.loaded.model(ids, positions, step)
        return self.loaded.model.logits(hidden).float()

    def _view(self, batch: dict[int, list[int]]) -> tuple[BatchView, torch.Tensor, torch.Tensor]:
        counts = np.array([len(tokens) for tokens in batch.values()], np.int32)
        starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
        positions, slots, lengths = [], [], []
        for row, tokens in batch.items():
            first = self._lengths.get(row, 0)
            last = first + len(tokens)
            table = self._tables.setdefault(row, [])
            while len(table) * BLOCK < last:
                table.append(int(self._free.pop()))
            places = range(first, last)
            positions += places
            slots += [table[p // BLOCK] * BLOCK + p % BLOCK for p in places]
            self._lengths[row] = last
            lengths.append(last)
        width = max(len(self._tables[row]) for row in batch)
        tables = np.zeros((len(batch), width), np.int32)
        for i, row in enumerate(batch):
            tables[i, : len(self._tables[row])] = self._tables[row]
        seq_lens = np.array(lengths, np.int32)
        view = BatchView(
            num_requests=len(batch),
            num_decodes=0,
            num_tokens=int(starts[-1]),
            query_start=torch.from_numpy(starts),
            query_start_host=starts,
            seq_lens=torch.from_numpy(seq_lens),
            seq_lens_host=seq_lens,
            block_table=torch.from_numpy(tables),
            block_table_host=tables,
            slots=torch.tensor(slots),
            max_query_len=int(counts.max()),
            max_seq_len=int(seq_lens.max()),
            block_size=BLOCK,
        )
        ids = torch.tensor([token for tokens in batch.values() for token in tokens])
        return view, ids, torch.tensor(positions)
