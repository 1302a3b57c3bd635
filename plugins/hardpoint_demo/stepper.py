"""One training step a batch; on a GPU replayed from CUDA graphs, since launching the kernels takes longer than they run."""

from __future__ import annotations

import torch
from torch import Tensor

from hardpoint_demo.batches import Batch
from hardpoint_demo.network import Network
from hardpoint_demo.optimizer import Optimizer


class Stepper:
    """Runs forward, backward and update. `loss` holds the loss of the last step, on the device."""

    def __init__(
        self, network: Network, optimizer: Optimizer, parameters: dict[str, Tensor], device: torch.device
    ) -> None:
        self._network, self._optimizer, self._device = network, optimizer, device
        self._parameters = list(parameters.values())
        for parameter in self._parameters:
            parameter.grad = torch.zeros_like(parameter)
        self._gradients = [parameter.grad for parameter in self._parameters]
        self.loss = torch.zeros((), device=device)
        # Per row length the input buffers and the graph of forward and backward; the update has one graph.
        self._graphs: dict[int, tuple[Tensor, Tensor, torch.cuda.CUDAGraph]] = {}
        self._update: torch.cuda.CUDAGraph | None = None
        self._plain = device.type != "cuda"
        self._pool: tuple[int, int] | None = None

    def __call__(self, batch: Batch, scale: float) -> None:
        """Train on one batch with the learning rates scaled by `scale`."""
        self._optimizer.set_rate(scale)
        inputs, targets = (torch.from_numpy(array) for array in batch)
        length = inputs.shape[1]
        if self._plain:
            self._gradient(inputs.to(self._device).int(), targets.to(self._device).long())
            self._optimizer.step()
            return
        if length not in self._graphs:
            try:
                self._graphs[length] = self._capture(inputs.to(self._device), targets.to(self._device))
            except RuntimeError as error:
                print(f"no CUDA graphs, steps run plainly: {error}", flush=True)
                self._plain = True
                self(batch, scale)
                return
        held_inputs, held_targets, graph = self._graphs[length]
        held_inputs.copy_(inputs.pin_memory(), non_blocking=True)
        held_targets.copy_(targets.pin_memory(), non_blocking=True)
        graph.replay()
        if self._update is None:
            # The first update runs plainly: it compiles, and AdamW makes its state.
            self._optimizer.step()
            torch.cuda.synchronize()
            self._update = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._update, pool=self._pool):
                self._optimizer.step()
            return
        self._update.replay()

    def _gradient(self, inputs: Tensor, targets: Tensor) -> None:
        torch._foreach_zero_(self._gradients)
        loss = self._network.loss(inputs, targets)
        loss.backward()
        self.loss.copy_(loss.detach())

    def _capture(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, torch.cuda.CUDAGraph]:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                self._gradient(inputs.int(), targets.long())
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            self._gradient(inputs.int(), targets.long())
        self._pool = self._pool or graph.pool()
        return inputs, targets, graph
