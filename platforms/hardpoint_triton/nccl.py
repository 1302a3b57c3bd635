"""Collectives over NCCL, and RCCL by the same name. They run on the current stream, so that a captured step holds them too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch._C._distributed_c10d import AllgatherOptions, AllreduceOptions, ReduceScatterOptions
from torch.distributed import Store  # type: ignore[attr-defined]

from hardpoint.contract.collectives import World
from hardpoint.contract.errors import PluginError
from hardpoint.executor.groups import TIMEOUT, TransportCommunicator, TransportFactory


class NcclFactory(TransportFactory["NcclCommunicator"]):
    """Opens groups over NCCL.

    Args:
        world: see :class:`hardpoint.executor.groups.TransportFactory`.
        device: this rank's GPU.

    Raises:
        ConfigError: when the address is not ``host:port``.
        PluginError: when this PyTorch was built without NCCL.
    """

    def __init__(self, world: World, device: torch.device) -> None:
        if not torch.distributed.is_nccl_available():
            raise PluginError(
                f"this PyTorch ({torch.__version__}) has no NCCL, so {world.size} GPUs cannot work together; install a "
                "build for CUDA, or use --tensor-parallel-size 1"
            )
        self._device = device
        super().__init__(world, self._communicator)

    def _communicator(self, store: Store, rank: int, size: int) -> NcclCommunicator:
        from torch.distributed import ProcessGroupNCCL

        options: Any = ProcessGroupNCCL.Options()
        options._timeout = TIMEOUT
        transport: Any = ProcessGroupNCCL(store, rank, size, options)
        # Connect now: doing so in the first collective would fall into a capture.
        transport.eager_connect_single_device(self._device)
        return NcclCommunicator(
            transport, rank, size, torch.cuda.current_stream(self._device).synchronize, self._device
        )


class NcclCommunicator(TransportCommunicator):
    """One group of ranks. Nothing here waits for the device but :meth:`barrier`.

    Args:
        transport, rank, size: see :class:`hardpoint.executor.groups.TransportCommunicator`.
        synchronize: waits for what is queued on the device.
        device: where a barrier's element lives.
    """

    def __init__(
        self, transport: Any, rank: int, size: int, synchronize: Callable[[], None], device: torch.device
    ) -> None:
        super().__init__(transport, rank, size)
        self._synchronize = synchronize
        self._device = device

    def all_reduce(self, x: torch.Tensor) -> torch.Tensor:
        """Return the sum over ranks in ``x``'s dtype, in ``x``'s memory if that is contiguous."""
        x = x.contiguous()
        self._queued(self.transport.allreduce([x], _on_this_stream(AllreduceOptions())))
        return x

    def all_gather(self, x: torch.Tensor, dim: int) -> torch.Tensor:
        """Return the ranks' tensors, of equal shapes, concatenated along ``dim`` in rank order."""
        # Rank after rank is how they arrive; along the first axis that is the result already.
        x = x.contiguous()
        out = x.new_empty((self.size * x.shape[0], *x.shape[1:]))
        self._queued(self.transport._allgather_base(out, x, _on_this_stream(AllgatherOptions())))
        return out if dim == 0 else torch.cat(out.chunk(self.size), dim)

    def reduce_scatter(self, x: torch.Tensor, dim: int) -> torch.Tensor:
        """Return this rank's part of the sum over ranks, cut along ``dim``.

        Raises:
            ValueError: when ``dim`` cannot be cut into equal parts.
        """
        self.check_parts(x, dim)
        rows = x.movedim(dim, 0).contiguous()
        out = rows.new_empty((rows.shape[0] // self.size, *rows.shape[1:]))
        self._queued(self.transport._reduce_scatter_base(out, rows, _on_this_stream(ReduceScatterOptions())))
        return out.movedim(0, dim)

    def barrier(self) -> None:
        """Wait until every rank is here."""
        self.all_reduce(torch.zeros(1, device=self._device))
        self._synchronize()

    def close(self) -> None:
        """Leave the group; it can be opened again through the factory."""
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.shutdown()


def _on_this_stream(options: Any) -> Any:
    options.asyncOp = False
    return options
