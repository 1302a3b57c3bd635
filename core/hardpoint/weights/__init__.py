"""Checkpoints: where their files are, what they say about the model, and how tensors get into parameters.

Importing this package loads no torch: clients read configurations too.
"""

from hardpoint.weights.hub import RepoRef
from hardpoint.weights.repo import ModelFiles, resolve
from hardpoint.weights.shape import model_shape

__all__ = ["ModelFiles", "RepoRef", "model_shape", "resolve"]
