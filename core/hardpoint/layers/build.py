"""The one argument of a model: what it is built from, and the record of what it built."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from hardpoint.contract.errors import ConfigError
from hardpoint.contract.quant import DENSE, LinearScheme
from hardpoint.layers.attention import Attention
from hardpoint.layers.embedding import Head
from hardpoint.layers.linear import Linear, TorchLinear
from hardpoint.layers.parameters import Parameter
from hardpoint.layers.rotary import RopeSpec, cos_sin_table, rope_parameters
from hardpoint.layers.sources import Part

if TYPE_CHECKING:
    from hardpoint.contract.attention import AttentionLayer, AttentionLayerConfig
    from hardpoint.contract.collectives import Communicator
    from hardpoint.contract.device import DeviceInfo
    from hardpoint.contract.quant import LinearKernel, QuantFormat
    from hardpoint.layers.norm import RMSNorm
    from hardpoint.ops import OpTable
    from hardpoint.weights import ModelFiles

_TORCH = TorchLinear()


@dataclass(slots=True, kw_only=True)
class ModelBuild:
    """What a model is built from.

    A model class is called with this and nothing else. Its layers ask it for memory, for their share of the work on this
    rank and for kernels, and state in ``parameters`` which checkpoint tensors fill them.

    Attributes:
        config: of the text decoder, as ``transformers`` standardises it.
        files: the checkpoint's files.
        dtype: of weights and activations.
        device: where tensors live.
        info: what the device is, for kernels to decide by.
        comm: the tensor-parallel ranks.
        ops: kernels by name.
        max_model_len: positions that may occur.
        attention_layer: makes the attention kernels of one layer.
        kernels: linear kernels in order of preference.
        quant: the checkpoint's quantization format, or ``None``.
        kv_dtype: of the cache, by torch's name.
        trust_remote_code: whether code of the checkpoint may run.
        parameters, attention_layers, linears: what the model made, in order.
        ignored: regular expressions of checkpoint tensors that the model does not need.
        elsewhere: checkpoint tensors that only another rank holds.
        loader: set by a model whose weights another library reads; called with the load format.
        refusals: linear kernel -> why it was passed over, for the first layer it refused.
    """

    config: Mapping[str, Any]
    files: ModelFiles
    dtype: torch.dtype
    device: torch.device
    info: DeviceInfo
    comm: Communicator
    ops: OpTable
    max_model_len: int
    attention_layer: Callable[[AttentionLayerConfig], AttentionLayer]
    kernels: Sequence[LinearKernel] = ()
    quant: QuantFormat | None = None
    kv_dtype: str = ""
    trust_remote_code: bool = False
    parameters: list[Parameter] = field(default_factory=list)
    attention_layers: list[Attention] = field(default_factory=list)
    linears: list[Linear | Head] = field(default_factory=list)
    ignored: list[str] = field(default_factory=lambda: [r"\.rotary_emb\.inv_freq$"])
    elsewhere: set[str] = field(default_factory=set)
    loader: Callable[[str], None] | None = None
    refusals: dict[str, list[str]] = field(default_factory=dict)
    _tables: dict[str, torch.Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.kv_dtype = self.kv_dtype or self.dtype_name

    @property
    def dtype_name(self) -> str:
        """The model's dtype by torch's name."""
        return str(self.dtype).removeprefix("torch.")

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> torch.Tensor:
        """Return memory on the device, in the model's dtype by default."""
        return torch.empty(shape, dtype=dtype or self.dtype, device=self.device)

    def share(self, total: int, what: str, rank: int | None = None) -> tuple[int, int]:
        """Return ``(start, stop)`` of a rank's (by default this one's) even share.

        Raises:
            ConfigError: when ranks do not divide ``total``.
        """
        size = self.comm.size
        if total % size:
            raise ConfigError(
                f"tensor_parallel_size is {size}, which does not divide {what} ({total}); use a divisor of {total}"
            )
        each = total // size
        rank = self.comm.rank if rank is None else rank
        return each * rank, each * (rank + 1)

    def heads(self, num_heads: int, num_kv_heads: int, rank: int | None = None) -> tuple[slice, slice]:
        """Return a rank's (by default this one's) query heads and key/value heads.

        Where there are more ranks than key/value heads, ranks share them.

        Raises:
            ConfigError: when heads cannot be split evenly.
        """
        size, rank = self.comm.size, self.comm.rank if rank is None else rank
        start, stop = self.share(num_heads, "the number of attention heads", rank)
        if size <= num_kv_heads:
            first, last = self.share(num_kv_heads, "the number of key/value heads", rank)
            return slice(start, stop), slice(first, last)
        if size % num_kv_heads:
            raise ConfigError(
                f"tensor_parallel_size is {size}; with {num_kv_heads} key/value heads it must divide or be a multiple of "
                f"{num_kv_heads}"
            )
        head = rank * num_kv_heads // size
        return slice(start, stop), slice(head, head + 1)

    def linear(self, path: str | tuple[str, ...], columns: int, rows: int, *, bias: bool = False) -> Linear:
        """Return a layer that every rank holds whole. Several paths are spellings of one name."""
        return Linear(self, (Part(_spellings(path), rows, 0, rows),), columns, (0, columns), bias=bias)

    def row_linear(
        self,
        path: str,
        columns: int,
        rows: int,
        *,
        bias: bool = False,
        reduce: bool = True,
        residual: bool = False,
        input_activation: str = "",
    ) -> Linear:
        """Return a layer split by columns: each rank has a part of the input, results are summed over ranks."""
        mine = self.share(columns, f"the input size of {path}")
        part = Part((path,), rows, 0, rows)
        return Linear(
            self, (part,), columns, mine, bias=bias, reduce=reduce, residual=residual, input_activation=input_activation
        )

    def head_row_linear(
        self, path: str, num_heads: int, head_size: int, rows: int, *, bias: bool = False, residual: bool = False
    ) -> Linear:
        """Return the projection behind attention: split by columns along head borders."""
        start, stop = self.share(num_heads, "the number of attention heads")
        mine = (start * head_size, stop * head_size)
        part = Part((path,), rows, 0, rows)
        return Linear(self, (part,), num_heads * head_size, mine, bias=bias, reduce=True, residual=residual)

    def merged_linear(
        self,
        paths: Sequence[str],
        columns: int,
        rows: int,
        *,
        bias: bool = False,
        fused: str | None = None,
        norm: RMSNorm | None = None,
        activation: str = "",
        deferrable: bool = False,
    ) -> Linear:
        """Return layers of ``rows`` output features each, split by rows, that run as one product (gate and up)."""
        start, stop = self.share(rows, f"the output size of {paths[0]}")
        parts = tuple(Part((path,), rows, start, stop) for path in paths)
        return Linear(
            self,
            parts,
            columns,
            (0, columns),
            bias=bias,
            fused=fused,
            norm=norm,
            activation=activation,
            deferrable=deferrable,
        )

    def qkv_linear(
        self,
        path: str,
        columns: int,
        num_heads: int,
        num_kv_heads: int,
        head_size: int,
        *,
        bias: bool = False,
        fused: str | None = None,
        norm: RMSNorm | None = None,
    ) -> Linear:
        """Return the projection to queries, keys and values: ``q_proj``, ``k_proj``, ``v_proj`` under ``path``."""
        q, kv = self.heads(num_heads, num_kv_heads)
        parts = tuple(
            Part((f"{path}.{name}",), count * head_size, mine.start * head_size, mine.stop * head_size)
            for name, count, mine in (
                ("q_proj", num_heads, q),
                ("k_proj", num_kv_heads, kv),
                ("v_proj", num_kv_heads, kv),
            )
        )
        fused = fused and f"{path}.{fused}"
        return Linear(self, parts, columns, (0, columns), bias=bias, fused=fused, norm=norm)

    def rotary(self, head_size: int, layer_type: str | None = None) -> torch.Tensor:
        """Return the table of rotary angles that the configuration asks for; layers share tables."""
        params = rope_parameters(self.config, layer_type)
        dim = int(head_size * float(params.get("partial_rotary_factor") or 1.0))
        key = json.dumps([dim, dict(params)], sort_keys=True, default=str)
        if key not in self._tables:
            context = int(self.config.get("max_position_embeddings") or self.max_model_len)
            spec = RopeSpec(params=params, dim=dim, context=context, max_model_len=self.max_model_len)
            self._tables[key] = cos_sin_table(spec, self.device, self.dtype)
        return self._tables[key]

    def choose_kernel(self, layer: Linear | Head, *, as_stored: bool = True) -> tuple[LinearKernel, LinearScheme]:
        """Return the first kernel that takes a layer as it is stored (if any may), else the first that takes it dequantized."""
        for scheme in dict.fromkeys((layer.scheme, DENSE) if as_stored else (DENSE,)):
            for kernel in (*self.kernels, _TORCH):
                reasons = kernel.reject(scheme, layer.out_features, layer.in_features, self.dtype_name, self.info)
                if not reasons:
                    return kernel, scheme
                self.refusals.setdefault(kernel.name, reasons)
        raise AssertionError("the torch kernel takes every dense layer")

    def finish(self) -> None:
        """Pack every linear layer for its kernel, hand attention its scales. Called once, after loading."""
        for attention in self.attention_layers:
            attention.finish()
        # Layers hold their stored tensors until they are packed: dropped here first, each goes before the next is packed.
        self.parameters = [parameter for parameter in self.parameters if not parameter.packed]
        for layer in self.linears:
            layer.pack(self)

    def weight_bytes(self) -> int:
        """Return the memory that parameters, packed layers and rotary tables take on this rank."""
        tensors = [parameter.tensor for parameter in self.parameters]
        tensors += [tensor for layer in self.linears for tensor in layer.packed.values()]
        plain = [tensor.untyped_storage() for tensor in tensors if tensor.layout == torch.strided]
        storages = {storage.data_ptr(): storage.nbytes() for storage in plain}
        # A kernel's own layout has no storage to look at.
        storages |= {id(tensor): tensor.nbytes for tensor in tensors if tensor.layout != torch.strided}
        storages |= {id(table): table.nbytes for table in self._tables.values()}
        return sum(storages.values())


def _spellings(path: str | tuple[str, ...]) -> tuple[str, ...]:
    return (path,) if isinstance(path, str) else path
