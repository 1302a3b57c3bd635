"""From a configuration and a checkpoint to a model that is ready to run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hardpoint.layers.attention import Attention
from hardpoint.layers.model import CausalModel

if TYPE_CHECKING:
    from hardpoint.config import EngineConfig
    from hardpoint.contract.attention import AttentionLayer, AttentionLayerConfig
    from hardpoint.contract.collectives import Communicator
    from hardpoint.contract.device import Device
    from hardpoint.contract.quant import LinearKernel
    from hardpoint.ops import OpTable
    from hardpoint.plugins import Catalogue
    from hardpoint.weights import ModelFiles


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A model with its weights.

    Attributes:
        model: call it with ids, positions and a step; ask it for logits.
        attention_layers: in layer order; each has ``config``, ``kv_spec`` and ``bind(kv, group)``.
        max_model_len: positions for which rotary tables were made.
        description: what was chosen, plain data for ``hardpoint explain``.
    """

    model: CausalModel
    attention_layers: tuple[Attention, ...]
    max_model_len: int
    description: dict[str, Any] = field(default_factory=dict)


def load_model(
    config: EngineConfig,
    files: ModelFiles,
    catalogue: Catalogue,
    device: Device,
    comm: Communicator,
    ops: OpTable,
    attention: Callable[[AttentionLayerConfig], AttentionLayer],
    linear_kernels: Sequence[LinearKernel] = (),
) -> LoadedModel:
    """Build the model for this rank, fill its weights and pack its linear layers.

    Args:
        config: after adjustments; ``dtype`` and ``max_model_len`` may still be automatic.
        files: what :func:`hardpoint.weights.resolve` returned.
        attention: makes the kernels of one layer with the chosen backend (and block size); raises ``ConfigError`` with
            every backend's reasons when none takes the layer.
        linear_kernels: the platform's, in order of preference; plain ``torch`` products serve what none of them takes.

    Raises:
        UnsupportedModelError: no installed plugin can run the architecture.
        CheckpointError: the weights are damaged, incomplete or do not fit.
        ConfigError: the model cannot be split over this many ranks, or a setting does not fit it.
    """
    raise NotImplementedError
