"""What model files are written with: layers that know how they are split over ranks."""

from hardpoint.layers.load import LoadedModel, load_model
from hardpoint.layers.model import CausalModel
from hardpoint.layers.step import StepContext

__all__ = ["CausalModel", "LoadedModel", "StepContext", "load_model"]
